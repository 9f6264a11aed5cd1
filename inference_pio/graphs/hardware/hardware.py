"""What a hardware profile says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """A class of machines: the targets that run on it and the CPU classes it covers ("any" for all of them)."""

    name: str
    targets: tuple[str, ...]
    cpu_classes: tuple[str, ...]
