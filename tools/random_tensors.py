"""Random tensor contents in a checkpoint's storage type, cheap to make and determined by a seed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from enum import Enum
from statistics import NormalDist

import numpy as np

CHUNK_VALUES = 1 << 20  # values made at a time; a multiple of 4, which one draw of 64 bits yields


class Dtype(str, Enum):
    """Storage type of the weights."""

    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"

    @property
    def bytes(self) -> int:
        return 4 if self is Dtype.FP32 else 2

    @property
    def safetensors_name(self) -> str:
        return {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}[self.value]

    @property
    def torch_name(self) -> str:
        return {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[self.value]


def encode(values: np.ndarray, dtype: Dtype) -> np.ndarray:
    """float32 ``values`` as the stored type, rounded to nearest even; bfloat16 comes as its bits (uint16)."""
    if dtype is Dtype.FP32:
        return values.astype("<f4")
    if dtype is Dtype.FP16:
        return values.astype("<f2")
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def normal_levels() -> np.ndarray:
    """65,536 equally likely levels of the standard normal distribution, float32, ascending."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / 65536) for i in range(65536)], np.float32)


class RandomTensors:
    """Random tensor contents that depend on seed, name and size alone, not on the shard they land in."""

    def __init__(self, dtype: Dtype, seed: int) -> None:
        levels = normal_levels()
        # A lookup by 16 random bits is several times cheaper than drawing and rounding floats.
        self._matrix = encode(levels * np.float32(0.02), dtype)
        self._norm = encode(1 + levels * np.float32(0.05), dtype)
        self._seed = seed

    def chunks(self, name: str, values: int) -> Iterator[np.ndarray]:
        """The ``values`` numbers of tensor ``name`` in pieces of at most CHUNK_VALUES."""
        generator = np.random.SFC64([self._seed, zlib.crc32(name.encode())])
        table = self._norm if name.endswith("norm.weight") else self._matrix
        for start in range(0, values, CHUNK_VALUES):
            count = min(CHUNK_VALUES, values - start)
            draws = generator.random_raw(-(-count // 4)).astype("<u8", copy=False)
            yield table[draws.view("<u2")[:count]]
