"""Plain reads of regular files: no mappings, nothing that can block, every failure a `BadInputError`."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from inference_pio.artifact.printable import printable
from inference_pio.artifact.strict_json import parse_json_object
from inference_pio.errors import BadInputError

HASH_CHUNK_BYTES = 8_000_000

# A pipe would block at open() without O_NONBLOCK; for regular files the flag changes nothing.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: Path) -> tuple[int, int]:
    """Opens a regular file for reading and returns (descriptor, size in bytes); symbolic links are followed.

    Raises `BadInputError` when the file is missing, unreadable, or not a regular file.
    """
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except FileNotFoundError as fault:
        if path.is_symlink():
            raise BadInputError(
                f"{printable(path.name)} is a link to a file that is gone; download it again"
            ) from fault
        raise BadInputError(
            f"{printable(path.name)} is missing from {printable(str(path.parent))}; download the checkpoint again"
        ) from fault
    except (OSError, ValueError) as fault:
        raise BadInputError(f"{printable(path.name)} cannot be opened: {reason(fault)}") from fault
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise BadInputError(f"{printable(path.name)} is not a regular file; give the checkpoint's own files")
    return descriptor, status.st_size


def read_exactly(descriptor: int, offset: int, target: memoryview, file_name: str) -> None:
    """Fills `target` with bytes from an absolute offset; raises `BadInputError` when the file ends before."""
    filled = 0
    while filled < len(target):
        try:
            count = os.preadv(descriptor, [target[filled:]], offset + filled)
        except OSError as fault:
            raise BadInputError(f"{printable(file_name)} cannot be read: {reason(fault)}") from fault
        if count == 0:
            raise BadInputError(
                f"{printable(file_name)} ends at byte {offset + filled}, {len(target) - filled} bytes early: "
                "it was changed while it was read, or its download is incomplete; download it again"
            )
        filled += count


def read_small(path: Path, limit: int) -> bytes:
    """The whole of a regular file of at most `limit` bytes; raises `BadInputError` for a larger one."""
    descriptor, size = open_regular(path)
    try:
        if size > limit:
            raise BadInputError(f"{printable(path.name)} has {size} bytes; at most {limit} are accepted")
        content = bytearray(size)
        read_exactly(descriptor, 0, memoryview(content), path.name)
        return bytes(content)
    finally:
        os.close(descriptor)


def hash_files(
    paths: Sequence[Path], progress: Callable[[int, int], None] | None = None
) -> dict[str, dict[str, str | int]]:
    """SHA-256 and size of regular files by file name; `progress(bytes done, in all)` is called per chunk."""
    sizes = {path: _size(path) for path in paths}
    total, done = sum(sizes.values()), 0
    buffer = memoryview(bytearray(min(HASH_CHUNK_BYTES, max(sizes.values(), default=0))))
    hashes: dict[str, dict[str, str | int]] = {}
    for path, size in sizes.items():
        digest = hashlib.sha256()
        descriptor, _ = open_regular(path)
        try:
            for offset in range(0, size, HASH_CHUNK_BYTES):
                chunk = buffer[: min(HASH_CHUNK_BYTES, size - offset)]
                read_exactly(descriptor, offset, chunk, path.name)
                digest.update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
        finally:
            os.close(descriptor)
        hashes[path.name] = {"sha256": digest.hexdigest(), "size": size}
    return hashes


def _size(path: Path) -> int:
    descriptor, size = open_regular(path)
    os.close(descriptor)
    return size


def reason(fault: OSError | ValueError) -> str:
    """The system's own words for a failed call, without the path."""
    return (fault.strerror if isinstance(fault, OSError) else None) or str(fault)


def read_json_object(path: Path, limit: int) -> dict[str, Any]:
    """The JSON object in a file of at most `limit` bytes; anything else raises `BadInputError` naming it."""
    return parse_json_object(read_small(path, limit), printable(path.name))
