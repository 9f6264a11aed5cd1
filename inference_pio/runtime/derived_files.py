"""Files that are made for one machine: in folders of the user's cache, private, bounded, rebuildable."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from inference_pio.artifact.jsonfile import json_bytes
from inference_pio.errors import BadInputError


def folder_name(fingerprint: str, facts: Mapping[str, str]) -> str:
    """The name of the folder of an artifact with this fingerprint on a machine of which `facts` are true."""
    return f"{fingerprint[:16]}-{digest({**facts, 'fingerprint': fingerprint})}"


def digest(facts: Mapping[str, str]) -> str:
    """Sixteen hexadecimal digits that stand for `facts`."""
    return hashlib.sha256(json_bytes(dict(facts))).hexdigest()[:16]


def make_private(*folders: Path) -> None:
    """Make folders, the outer one first, that nobody else may write to; raises BadInputError where that fails."""
    for folder in folders:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BadInputError(f"{folder} cannot be written ({error.strerror}): choose another cache") from None
    check_private(*folders)


def check_private(*folders: Path) -> None:
    """Raise BadInputError for a folder that others own or can write to: what is in it may run as code."""
    for folder in folders:
        status = folder.stat()
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
            raise BadInputError(f"others can write to {folder}, whose files are run as code: remove it and try again")


def drop_old(root: Path, mark: str, kept: int) -> None:
    """Remove the folders in `root` but the `kept` ones whose file `mark` was touched last."""
    made = sorted(root.glob(f"*/{mark}"), key=_touched, reverse=True)
    for old in made[kept:]:
        shutil.rmtree(old.parent, ignore_errors=True)


def _touched(file: Path) -> int:
    """When a file was touched, in nanoseconds; 0 when another process has just removed it."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
