"""How much memory this process can still use: what the system has left, and what its control groups allow.

Control groups: https://docs.kernel.org/admin-guide/cgroup-v2.html and, for the older kind, cgroup-v1/memory.html.
Pages of files count against a group, but give way, so they are taken as free.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

MOUNT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def available_memory() -> int:
    """Bytes."""
    return max(0, min([int(psutil.virtual_memory().available), *_left_in_groups()]))


def _left_in_groups() -> Iterator[int]:
    """What is left in every control group that holds this process, the outer ones too."""
    try:
        lines = MEMBERSHIP.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        _, controllers, path = parts
        if controllers == "":
            yield from _left(MOUNT, path, "memory.max", "memory.current", "file")
        elif "memory" in controllers.split(","):
            yield from _left(MOUNT / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")


def _left(root: Path, path: str, limit: str, used: str, files: str) -> Iterator[int]:
    folder = root / path.lstrip("/")
    for place in (folder, *folder.parents):
        if not place.is_relative_to(root):
            return
        try:
            most = (place / limit).read_text("ascii").strip()
            if most != "max":
                words = dict(line.split() for line in (place / "memory.stat").read_text("ascii").splitlines())
                yield int(most) - int((place / used).read_text("ascii")) + int(words.get(files, 0))
        except (OSError, ValueError):
            continue
