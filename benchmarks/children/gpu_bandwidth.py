"""Bytes per second that a device's memory gives to a copy, reads and writes counted; the best of several.

Needs no PyTorch: today's has no code for Pascal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from process import report, spec

from inference_pio.runtime.backends.cuda_library import ON_DEVICE
from inference_pio.runtime.device import open_gpu

asked = spec()
size = asked["bytes"]
ROUNDS, COPIES = 8, 10


def best(copies: Callable[[], None]) -> float:
    """The most bytes per second of ROUNDS times COPIES copies."""
    found = 0.0
    for _ in range(ROUNDS):
        started = time.perf_counter()
        copies()
        found = max(found, 2 * size * COPIES / (time.perf_counter() - started))
    return found


def of_gpu(index: int) -> tuple[float, str]:
    """Of a GPU's memory, and what it is called."""
    cuda = open_gpu(index).cuda
    stream = cuda.stream()
    source, target = (cuda.allocate(size, "a copy") for _ in range(2))

    def copies() -> None:
        for _ in range(COPIES):
            cuda.copy(target, source, size, ON_DEVICE, stream)
        cuda.synchronize(stream)

    return best(copies), cuda.name


def of_host() -> tuple[float, str]:
    """Of the host's memory, by one thread."""
    source, target = (np.zeros(size, np.uint8) for _ in range(2))

    def copies() -> None:
        for _ in range(COPIES):
            np.copyto(target, source)

    return best(copies), "cpu"


kind, _, number = asked["device"].partition(":")
speed, name = of_host() if kind == "cpu" else of_gpu(int(number or 0))
report({"bytes_per_s": speed, "device": name})
