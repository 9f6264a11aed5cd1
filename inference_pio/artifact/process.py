"""What the operating system says about this process."""

from __future__ import annotations

import ctypes
from pathlib import Path


def peak_rss_bytes() -> int | None:
    """The largest resident size so far, mapped files included; None where the system does not tell.

    Of this program alone: `ru_maxrss` would carry over what a parent used before it started this one.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
    return None if line is None else int(line.split()[1]) * 1024


def return_freed_memory() -> None:
    """Give memory that was freed inside the heap back to the system, where the C library can (glibc).

    Work that loads and frees weights of a few megabytes each leaves the heap full of holes that never shrink.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
