"""The CPU of this machine."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_name() -> str:
    """What the CPU calls itself, or the machine's type where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
