"""Opening an artifact folder: schema, confinement of paths, hashes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from inference_pio.artifact.hashing import StampCache, hash_file
from inference_pio.artifact.manifest import MANIFEST_NAME, FileHash, Manifest
from inference_pio.artifact.manifest_reader import read_manifest
from inference_pio.errors import BadInputError

LARGE_FILE_BYTES = 64 << 20
"""Files above this size are weights: hashed at first open, then trusted by stamp."""


@dataclass(frozen=True)
class Artifact:
    """An artifact whose manifest is sound, whose paths stay inside and whose small files have their hashes."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Artifact:
        """Check everything but the large files; raises BadInputError that names the first thing wrong."""
        folder = Path(path)
        with _readable(folder):
            if not folder.is_dir():
                raise BadInputError(f"{folder} is not an artifact folder: it does not exist or is a file")
            _check_confined(folder, folder / MANIFEST_NAME)
            artifact = cls(folder, read_manifest(folder))
            artifact._check_sizes()
        for name in artifact.manifest.files:
            if name not in artifact.large_files:
                artifact.check_file(name)
        return artifact

    def _check_sizes(self) -> None:
        for graph in self.manifest.graphs:
            if graph.file not in self.manifest.files:
                raise BadInputError(
                    f"{self.path / MANIFEST_NAME} names the graph {graph.file!r}, but lists no such file"
                )
        for name, expected in self.manifest.files.items():
            file = self.file(name)
            size = file.stat().st_size
            if size != expected.size:
                raise BadInputError(f"{file} has {size} bytes, but the manifest says {expected.size}: {_MEND}")

    def file(self, name: str) -> Path:
        """The path of a listed file; raises BadInputError when it is missing or leads out of the folder."""
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts or "\\" in name or ":" in name:
            raise BadInputError(f"{self.path / MANIFEST_NAME} lists {name!r}, a path that leaves the folder")
        file = self.path / relative
        _check_confined(self.path, file)
        if not file.is_file():
            raise BadInputError(f"{file} is missing: {_MEND}")
        return file

    def refuse_unlisted(self, names: Iterable[str]) -> None:
        """Raise BadInputError when one of `names` stands in the folder but has no hash in the manifest."""
        strange = [name for name in names if name not in self.manifest.files and (self.path / name).exists()]
        if strange:
            raise BadInputError(f"{self.path / strange[0]} is not listed in {MANIFEST_NAME}: remove it")

    @property
    def large_files(self) -> dict[str, FileHash]:
        """The files whose hashing takes noticeable time."""
        return {name: entry for name, entry in self.manifest.files.items() if entry.size > LARGE_FILE_BYTES}

    def check_file(self, name: str) -> None:
        """Hash one file; raises BadInputError when it is not what the manifest says."""
        with _readable(self.path / name):
            if hash_file(self.file(name)) != self.manifest.files[name]:
                raise BadInputError(f"{self.path / name} has changed since it was written: {_MEND}")

    def check_large_files(self, stamps: StampCache | None) -> None:
        """Hash the large files, except those that `stamps` remembers; with None every one."""
        for name, expected in self.large_files.items():
            with _readable(self.path / name):
                file = self.file(name)
                stamp = None if stamps is None else stamps.stamp(file, expected)
                if stamps is not None and stamp is not None and stamps.trusts(file, stamp):
                    continue
                self.check_file(name)
                if stamps is not None and stamp is not None:
                    stamps.remember(file, stamp)

    def unlisted_files(self) -> list[str]:
        """Files in the folder that the manifest does not know, by name."""
        known = {*self.manifest.files, MANIFEST_NAME, "build-report.json"}
        found = (p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if not p.is_dir())
        return sorted(os.fsencode(name).decode("utf-8", "replace") for name in found if name not in known)


_MEND = "copy or export the artifact again"


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the system's refusals into BadInputError."""
    try:
        yield
    except OSError as error:
        raise BadInputError(f"{error.filename or path} cannot be read: {error.strerror}") from None


def _check_confined(folder: Path, file: Path) -> None:
    root = os.path.realpath(folder)
    if os.path.commonpath([root, os.path.realpath(file)]) != root:
        raise BadInputError(f"{file} is a link that leads out of the artifact: {_MEND}")
