"""SHA-256 of files, and stamps that remember which large files were hashed before."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from inference_pio.artifact.jsonfile import json_bytes, write_atomically
from inference_pio.artifact.manifest import FileHash

CHUNK_BYTES = 4 << 20


def hash_file(path: Path) -> FileHash:
    """SHA-256 and size of a file, read in chunks; releases the interpreter lock while it computes."""
    digest, size = hashlib.sha256(), 0
    buffer = bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
            size += count
    return FileHash(digest.hexdigest(), size)


class StampCache:
    """Remembers, in a private folder, that a file had a given hash when it had this size, time and inode."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "stamps"

    def trusts(self, path: Path, expected: FileHash) -> bool:
        """Whether `path` was found to have the hash `expected` and has not been touched since."""
        try:
            stamp = json.loads(self._stamp_path(path).read_text())
        except (OSError, ValueError):
            return False
        return stamp == self._stamp(path, expected)

    def remember(self, path: Path, expected: FileHash) -> None:
        """Note that `path` has the hash `expected`; a cache folder that cannot be written is no error."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._stamp_path(path), json_bytes(self._stamp(path, expected)))
        except OSError:
            return

    def _stamp_path(self, path: Path) -> Path:
        return self._folder / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()}.json"

    def _stamp(self, path: Path, expected: FileHash) -> dict[str, object]:
        status = path.stat()
        return {
            "path": str(path.resolve()),
            "sha256": expected.sha256,
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "inode": status.st_ino,
        }
