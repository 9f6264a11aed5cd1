"""Which class of x86-64 CPU this is, as far as integer kernels care."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil

from inference_pio.errors import BadInputError

CLASSES = (
    ("avx512-vnni", frozenset({"avx512f", "avx512vl", "avx512_vnni"})),
    ("avx-vnni", frozenset({"avx2", "avx_vnni"})),
    ("avx512", frozenset({"avx512f", "avx512vl", "avx512bw"})),
    ("avx2", frozenset({"avx2"})),
)
"""Classes from best to least, with the flags (as Linux spells them) that make a CPU a member."""


def cpu_flags() -> frozenset[str]:
    """Instruction-set flags of this CPU; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), ()))


def cpu_class(flags: frozenset[str]) -> str:
    """The best class that `flags` allow, or the machine's name where there is none."""
    return next((name for name, needed in CLASSES if needed <= flags), platform.machine() or "unknown")


def check_cpu_class(allowed: list[str]) -> None:
    """Raise BadInputError when an artifact is not valid on this CPU."""
    found = cpu_class(cpu_flags())
    if "any" not in allowed and found not in allowed:
        raise BadInputError(
            f"the artifact is valid on CPUs of class {', '.join(allowed)}, and this one is {found}: export it with "
            "another recipe"
        )


def physical_cores() -> int:
    """Physical cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or usable, usable))
