"""SHA-256 of files, and stamps that remember which large files were hashed before."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from inference_pio.artifact.files import write_atomically
from inference_pio.artifact.jsonfile import json_bytes
from inference_pio.artifact.manifest import FileHash
from inference_pio.errors import InferencePioError

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


Stamp = dict[str, object]


class StampCache:
    """Remembers, in a private folder, that a file had a given hash when it had this size, these times and inode."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "stamps"

    def stamp(self, path: Path, expected: FileHash) -> Stamp:
        """What says that `path` has the hash `expected` as it stands now; take it before hashing the file.

        The time of the last change to the inode is part of it, because the time of the last write can be set back.
        """
        status = path.stat()
        return {
            "sha256": expected.sha256,
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "ctime_ns": status.st_ctime_ns,
            "inode": status.st_ino,
        }

    def trusts(self, path: Path, stamp: Stamp) -> bool:
        """Whether `stamp` was remembered for `path`."""
        try:
            return bool(json.loads(self._place(path).read_bytes()) == stamp)
        except (OSError, ValueError, RecursionError):
            return False

    def remember(self, path: Path, stamp: Stamp) -> None:
        """Note that the hash in `stamp` was found right; a cache folder that cannot be written is no error."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._place(path), lambda file: file.write(json_bytes(stamp)))
        except (OSError, InferencePioError):
            return

    def _place(self, path: Path) -> Path:
        return self._folder / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()}.json"
