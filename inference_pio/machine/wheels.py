"""What GPU code the published wheels of onnxruntime-gpu hold, and which driver their CUDA needs.

Read from the machine code in `libonnxruntime_providers_cuda.so` of the Linux x86-64 wheels. A GPU runs code of its own
major compute capability up to its own minor one; PTX of any earlier capability is compiled when it is loaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Support(Enum):
    """Whether a wheel runs on a GPU: with code for it, with code for an older one of its kind, or not at all."""

    NATIVE = "native"
    COMPATIBLE = "compatible"
    NONE = "none"


@dataclass(frozen=True)
class Wheel:
    """A version of onnxruntime-gpu: its major CUDA version, machine code and PTX as ten times the capability."""

    version: tuple[int, ...]
    cuda: int
    code: tuple[int, ...]
    ptx: tuple[int, ...]

    def support(self, capability: str) -> Support:
        """Of a GPU with this compute capability, "6.1"."""
        major, minor = (int(part) for part in capability.split("."))
        own = 10 * major + minor
        if own in self.code:
            return Support.NATIVE
        older = any(code // 10 == major and code % 10 <= minor for code in self.code)
        return Support.COMPATIBLE if older or any(code <= own for code in self.ptx) else Support.NONE


_OLD, _MIDDLE = (52, 60, 61, 70, 75, 80), (60, 70, 75, 80, 86, 90)

WHEELS = (
    Wheel((1, 16, 3), 11, _OLD, _OLD),
    Wheel((1, 18, 1), 11, _OLD, _OLD),
    Wheel((1, 20, 2), 12, _OLD, _OLD),
    Wheel((1, 22, 0), 12, _MIDDLE, (90,)),
    Wheel((1, 26, 0), 12, _MIDDLE, (90,)),
    Wheel((1, 27, 0), 13, (75, 80, 86, 89, 90, 100, 120), (120,)),
    Wheel((1, 31, 1), 13, (75, 80, 86, 89, 90, 120), ()),
)
"""Versions whose wheels were read, from the oldest on; others are like the last one before them."""

LEAST_DRIVER = {11: (450, 80), 12: (525, 60), 13: (580,)}
"""By major CUDA version, on Linux: docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html, more
exactly for 11 and 12 in docs.nvidia.com/deeplearning/cudnn/latest/support-matrix."""


def find_wheel(version: str) -> Wheel | None:
    """What is known of a version of onnxruntime-gpu; None before the first that was read."""
    return next((wheel for wheel in reversed(WHEELS) if wheel.version <= numbers(version)), None)


def best_wheel(capability: str) -> Wheel | None:
    """The newest with machine code for a GPU itself, else the newest that runs on it; None where none does."""
    for wanted in (Support.NATIVE, Support.COMPATIBLE):
        for wheel in reversed(WHEELS):
            if wheel.support(capability) is wanted:
                return wheel
    return None


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (1, 20, 2) of "1.20.2", (9, 10) of "9.10rc1"."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
