"""Writing a file completely or not at all, emptying a folder, and what may be replaced."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from inference_pio.errors import BadInputError, ResourceLimitError


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place.

    Raises BadInputError when the folder cannot be written to and ResourceLimitError when the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceLimitError(f"no space left for {path}: free some or write elsewhere") from error
        raise BadInputError(f"{path} cannot be written ({error.strerror}): choose another place") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def clear_folder(folder: Path) -> None:
    """Remove what a folder holds, and keep the folder; links are removed, not followed. Raises OSError."""
    for stale in folder.iterdir():
        if stale.is_dir() and not stale.is_symlink():
            shutil.rmtree(stale)
        else:
            stale.unlink()


def refuse_obstacle(out: Path, force: bool, kind: str, is_one: Callable[[Path], bool]) -> None:
    """Raise BadInputError when something stands at `out` that is not to be replaced.

    With `force` an empty folder is, and a folder that `is_one` says is a `kind` ("artifact").
    """
    try:
        problem = _obstacle(out, force, kind, is_one)
    except OSError as error:
        problem = f"{out} cannot be used: {error.strerror}"
    if problem is not None:
        raise BadInputError(f"{problem}: choose another -o")


def _obstacle(out: Path, force: bool, kind: str, is_one: Callable[[Path], bool]) -> str | None:
    if not out.exists() and not out.is_symlink():
        return None
    if not force:
        return f"{out} exists, and is replaced only with --force"
    if out.is_symlink() or not out.is_dir():
        return f"{out} is not a folder, and --force replaces only {kind}s"
    if any(out.iterdir()) and not is_one(out):
        return f"{out} is no {kind}, and --force replaces only {kind}s"
    return None
