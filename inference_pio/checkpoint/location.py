"""Finds a checkpoint's folder: a path, or a hub id in the local Hugging Face cache. Nothing is downloaded."""

from __future__ import annotations

import re
from pathlib import Path

from inference_pio.artifact.printable import printable
from inference_pio.checkpoint.files import read_small, reason
from inference_pio.errors import BadInputError

# What the hub accepts as `organisation/name`, or as one of the few names without an organisation.
_HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)


def find_folder(source: str | Path, hub_cache: Path | None) -> Path:
    """The folder of a checkpoint; raises `BadInputError` that says how to get one that is not there.

    An existing folder wins over a hub id of the same spelling, as in transformers.
    """
    if source == "":
        raise BadInputError("there is no folder ''; give the folder of a checkpoint, or a hub id ORG/NAME")
    folder = Path(source)
    try:
        if folder.is_dir():
            return folder
        is_file = folder.exists()
    except OSError as fault:
        raise BadInputError(f"{printable(str(source))} cannot be opened: {reason(fault)}") from fault
    if is_file:
        raise BadInputError(f"{printable(str(source))} is a file; give the folder of the checkpoint")
    if isinstance(source, str) and _HUB_ID.fullmatch(source) and ".." not in source:
        return _find_snapshot(source, default_hub_cache() if hub_cache is None else hub_cache)
    raise BadInputError(
        f"there is no folder {printable(str(source))}; give the folder of a checkpoint, or a hub id ORG/NAME"
    )


def default_hub_cache() -> Path:
    """Where huggingface_hub keeps its files unless it is told otherwise."""
    try:
        return Path.home() / ".cache" / "huggingface" / "hub"
    except RuntimeError as fault:
        raise BadInputError("the home folder is unknown; give the checkpoint as a folder") from fault


def _find_snapshot(hub_id: str, hub_cache: Path) -> Path:
    how = f"download it first, for example with: hf download {hub_id}"
    repository = hub_cache / f"models--{hub_id.replace('/', '--')}"
    if not _is_dir(repository):
        raise BadInputError(
            f"{hub_id!r} is neither a folder nor in the Hugging Face cache {printable(str(hub_cache))}; {how}"
        )
    reference = repository / "refs" / "main"
    if not reference.is_file():
        raise BadInputError(
            f"the Hugging Face cache holds no main revision of {hub_id!r}; {how}, or give the folder of "
            f"another revision below {printable(str(repository / 'snapshots'))}"
        )
    revision = read_small(reference, limit=256).decode("utf-8", "replace").strip()
    if not _REVISION.fullmatch(revision):
        raise BadInputError(f"{printable(str(reference))} does not hold a revision; {how}")
    snapshot = repository / "snapshots" / revision
    if not _is_dir(snapshot):
        raise BadInputError(f"the Hugging Face cache lacks revision {revision} of {hub_id!r}; {how}")
    return snapshot


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as fault:
        raise BadInputError(f"{printable(str(path))} cannot be opened: {reason(fault)}") from fault
