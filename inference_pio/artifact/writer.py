"""Writing an artifact: a locked sibling folder that takes the place of OUT in one step, or vanishes."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from inference_pio.artifact.files import clear_folder, refuse_obstacle
from inference_pio.artifact.jsonfile import read_json_object
from inference_pio.artifact.locking import FolderBusyError, FolderLock
from inference_pio.artifact.manifest import MANIFEST_NAME, FileHash
from inference_pio.errors import BadInputError, ResourceLimitError

AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""linux/fcntl.h and linux/fs.h."""


class HashedFile:
    """A file being written whose SHA-256 grows with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = open(path, "xb", buffering=0)  # noqa: SIM115 (closed by `close`)
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append; raises ResourceLimitError when the disk is full."""
        view = memoryview(data).cast("B")
        self._digest.update(view)
        self.size += len(view)
        while len(view):
            try:
                view = view[self._file.write(view) :]
            except OSError as error:
                raise disk_error(error) from error

    def align(self, boundary: int) -> int:
        """Pad with zeros to a multiple of `boundary` and return the position."""
        gap = -self.size % boundary
        if gap:
            self.write(bytes(gap))
        return self.size

    def close(self) -> FileHash:
        """Flush to the disk and return the hash; raises as `write` does."""
        try:
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise disk_error(error) from error
        return FileHash(self._digest.hexdigest(), self.size)


class ArtifactWriter:
    """Context manager that yields the folder to fill; `commit` puts it at `out`, leaving without it removes it.

    Raises BadInputError when `out` exists (and `force` is off, or it is not an artifact) or another process is
    writing there. What a killed process left behind is cleared.
    """

    def __init__(self, out: Path, force: bool) -> None:
        # "." has no name to put a sibling beside; a link must stay one, to be refused.
        self.out = Path(os.path.abspath(out))  # noqa: PTH100
        self.files: dict[str, FileHash] = {}
        self.folder = self.out.with_name(f".{self.out.name}.partial")
        self._force = force

    def __enter__(self) -> ArtifactWriter:
        refuse_existing(self.out, self._force)
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.folder)
        except FolderBusyError:
            raise BadInputError(f"another export is writing {self.out}: wait for it or choose another -o") from None
        except OSError as error:
            raise disk_error(error, f"cannot write beside {self.out}") from None
        try:
            _recover(self.out)
            refuse_existing(self.out, self._force)  # now that nobody else is at it
            clear_folder(self.folder)  # of what a killed process left
        except OSError as error:
            self._lock.release()
            raise disk_error(error, f"cannot clear {self.folder}") from None
        except BadInputError:
            self.__exit__(None, None, None)
            raise
        return self

    def create(self, name: str) -> HashedFile:
        """Open a new file of the artifact; `finish` records it."""
        try:
            return HashedFile(self.folder / name)
        except OSError as error:
            raise disk_error(error) from error

    def finish(self, name: str, file: HashedFile) -> None:
        """Close `file` and record its hash under `name`."""
        self.files[name] = file.close()

    def add(self, name: str, data: bytes, record: bool = True) -> None:
        """Write a small file; `record` False keeps it out of the list of hashes."""
        file = self.create(name)
        file.write(data)
        entry = file.close()
        if record:
            self.files[name] = entry

    @contextmanager
    def provisional(self, manifest: bytes) -> Iterator[None]:
        """Let the unfinished folder open as an artifact with `manifest` for a while."""
        self.add(MANIFEST_NAME, manifest, record=False)
        try:
            yield
        finally:
            (self.folder / MANIFEST_NAME).unlink()

    def commit(self, manifest: bytes) -> None:
        """Write the manifest and put the folder at `out`; an old artifact there is removed afterwards.

        Raises BadInputError when something came to stand at `out` meanwhile that must not be replaced.
        """
        self.add(MANIFEST_NAME, manifest, record=False)
        refuse_existing(self.out, self._force)
        try:
            os.fsync(self._lock.descriptor)
            if self.out.exists():
                _exchange(self.folder, self.out)
                shutil.rmtree(self.folder)
            else:
                self.folder.rename(self.out)
            parent = os.open(self.out.parent, os.O_RDONLY)
            os.fsync(parent)
            os.close(parent)
        except OSError as error:
            raise disk_error(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.folder.exists() and self._lock.holds(self.folder):
            shutil.rmtree(self.folder)
        self._lock.release()


def refuse_existing(out: Path, force: bool) -> None:
    """Raise BadInputError when `out` exists and must not be replaced: only artifacts and empty folders may."""
    refuse_obstacle(out, force, "artifact", _looks_like_artifact)


def _looks_like_artifact(folder: Path) -> bool:
    """Whether a folder has a manifest of ours, of whatever version; others have files of that name as well."""
    try:
        values = read_json_object(folder / MANIFEST_NAME)
    except BadInputError:
        return False
    return {"schema_version", "fingerprint", "graphs", "files"} <= values.keys()


def disk_error(error: OSError, what: str = "writing the artifact failed") -> Exception:
    """The error to report for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ResourceLimitError(f"{what}: {error.strerror}; free some space or choose another -o")
    return BadInputError(f"{what}: {error.strerror}")


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders in one step (renameat2), so that no moment lacks a complete `old`."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is not None and rename(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(old), RENAME_EXCHANGE) == 0:
        return
    aside = _aside(old)
    old.rename(aside)
    new.rename(old)
    aside.rename(new)


def _aside(out: Path) -> Path:
    """Where an old artifact waits for a moment on systems that cannot swap two folders."""
    return out.with_name(f".{out.name}.old")


def _recover(out: Path) -> None:
    """Undo or finish a swap that a killed process left half done."""
    aside = _aside(out)
    if aside.is_symlink() or not _looks_like_artifact(aside):
        return
    if out.exists():
        shutil.rmtree(aside)
    else:
        aside.rename(out)
