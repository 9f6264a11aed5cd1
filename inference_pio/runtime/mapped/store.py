"""Where prepacked graphs are kept: the user's cache, by artifact, CPU and version of ONNX Runtime; private and bounded.

A prepacked graph is a derived file: it can be deleted at any time, and only those made here are ever loaded.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference_pio.artifact.files import clear_folder
from inference_pio.artifact.jsonfile import json_bytes
from inference_pio.artifact.locking import FolderBusyError, FolderLock
from inference_pio.errors import BadInputError, InferencePioError, ResourceLimitError
from inference_pio.runtime.cpu import cpu_flags
from inference_pio.runtime.derived_files import drop_old, folder_name, make_private
from inference_pio.runtime.mapped.prepack import SessionOptionsMaker, prepack

LOG = logging.getLogger("inference_pio")
DONE = "complete.json"
GROWTH = 1.5
"""What packed weights take beside the plain ones, at most, as a share of these."""
KEPT = 3
"""Prepacked artifacts that are kept, the most recently used ones."""


class MappedStore:
    """The folder of prepacked graphs below the user's cache folder."""

    def __init__(self, cache_dir: Path) -> None:
        self._root = cache_dir / "mapped"

    def find(self, fingerprint: str, facts: Mapping[str, str]) -> Path | None:
        """The folder of the prepacked form of an artifact on this machine, None where there is none."""
        folder = self._folder(fingerprint, facts)
        if not (folder / DONE).is_file():
            return None
        (folder / DONE).touch()  # for `drop_old`
        return folder

    def make(
        self,
        fingerprint: str,
        facts: Mapping[str, str],
        files: tuple[Path, Path],
        ort: Any,
        options: SessionOptionsMaker,
    ) -> Path:
        """Prepack the graph and the weights `files` and return their new folder.

        Raises ResourceLimitError when the disk is too small, BadInputError when another process is at it or ONNX
        Runtime refuses.
        """
        folder, weights = self._folder(fingerprint, facts), files[1]
        partial = folder.with_name(f".{folder.name}.partial")
        try:
            make_private(self._root)
            lock = FolderLock(partial)
        except FolderBusyError:
            raise BadInputError(f"another process is prepacking these weights in {partial}: wait for it") from None
        except OSError as error:
            raise BadInputError(f"{self._root} cannot be written ({error.strerror}): choose another cache") from None
        try:
            needed, free = int((1 + GROWTH) * weights.stat().st_size), shutil.disk_usage(self._root).free
            if needed > free:
                raise ResourceLimitError(
                    f"prepacked weights need up to {needed // 10**6} MB of disk and {self._root} has "
                    f"{free // 10**6} MB: free some space, or set map_weights to off on a machine with more memory"
                )
            clear_folder(partial)
            LOG.info("prepacking the weights of %s once for this machine, in %s", files[0].parent, folder)
            prepack(*files, partial, ort, options, self._report)
            (partial / DONE).write_bytes(json_bytes({"fingerprint": fingerprint, **facts}))
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        except (InferencePioError, KeyboardInterrupt):
            shutil.rmtree(partial, ignore_errors=True)
            raise
        except Exception as error:  # ONNX Runtime's errors have no common base
            shutil.rmtree(partial, ignore_errors=True)
            raise BadInputError(f"the weights of {files[0].parent} cannot be prepacked here: {error}") from error
        finally:
            lock.release()
        drop_old(self._root, DONE, KEPT)
        return folder

    def _report(self, done: int, total: int) -> None:
        LOG.info("prepacked %d of %d weights", done, total)

    def _folder(self, fingerprint: str, facts: Mapping[str, str]) -> Path:
        return self._root / folder_name(fingerprint, facts)


def machine_facts(ort: Any, session_entries: Mapping[str, str]) -> dict[str, str]:
    """What packed layouts depend on: instruction sets, ONNX Runtime's version and build, session options."""
    flags = hashlib.sha256(" ".join(sorted(cpu_flags())).encode()).hexdigest()
    return {"onnxruntime": ort.__version__, "cpu": flags, **session_entries}
