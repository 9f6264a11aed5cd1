"""What the system says about this process."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from inference_pio.artifact.process import peak_rss_bytes, return_freed_memory


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no malloc_trim")
def test_memory_freed_inside_the_heap_goes_back():
    small = [np.ones(12_000, np.uint8) for _ in range(10_000)]
    before = resident()
    kept = small[::500]
    del small
    return_freed_memory()
    assert len(kept) == 20 and before - resident() > 80e6


def test_the_peak_is_at_least_what_is_resident():
    peak = peak_rss_bytes()
    assert peak is None or peak >= resident()
