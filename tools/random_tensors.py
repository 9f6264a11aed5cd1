"""Random tensor contents in a checkpoint's storage type, cheap to make and determined by a seed."""

from __future__ import annotations

import math
import re
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


class Kind(Enum):
    """How values are distributed, by the part a tensor plays."""

    MATRIX = "matrix"  # normal(0, 0.02), biases too
    NORM = "norm"  # normal(1, 0.05)
    ROUTER = "router"  # scaled by fan-in: behind a norm, logits are normal(0, 1) and no expert is idle
    ROUTER_BIAS = "router bias"  # normal(0, 0.05), beside scores that sigmoid keeps within 0 and 1

    @classmethod
    def of(cls, name: str) -> Kind:
        """The kind of the tensor with this published name."""
        if name.endswith("e_score_correction_bias"):
            return cls.ROUTER_BIAS
        if name.endswith("mlp.gate.weight"):
            return cls.ROUTER
        return cls.NORM if re.search(r"norm\d?\.weight$", name) else cls.MATRIX


def stored_as(name: str, dtype: Dtype) -> Dtype:
    """The type of one tensor in a checkpoint of this type; router biases keep float32, as published ones do."""
    return Dtype.FP32 if Kind.of(name) is Kind.ROUTER_BIAS else dtype


class RandomTensors:
    """Random tensor contents that depend on seed, name and size alone, not on the shard they land in."""

    def __init__(self, dtype: Dtype, seed: int) -> None:
        self._dtype, self._seed = dtype, seed
        self._levels = normal_levels()
        self._tables: dict[tuple[Kind, float], np.ndarray] = {}

    def chunks(self, name: str, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        """The numbers of tensor ``name`` in pieces of at most CHUNK_VALUES."""
        generator = np.random.SFC64([self._seed, zlib.crc32(name.encode())])
        table, values = self._table(name, shape), math.prod(shape)
        for start in range(0, values, CHUNK_VALUES):
            count = min(CHUNK_VALUES, values - start)
            draws = generator.random_raw(-(-count // 4)).astype("<u8", copy=False)
            yield table[draws.view("<u2")[:count]]

    def _table(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Encoded levels: a lookup by 16 random bits is several times cheaper than drawing and rounding floats."""
        kind = Kind.of(name)
        scale = {Kind.MATRIX: 0.02, Kind.ROUTER: shape[-1] ** -0.5}.get(kind, 0.05)
        if (kind, scale) not in self._tables:
            values = self._levels * np.float32(scale) + np.float32(1 if kind is Kind.NORM else 0)
            self._tables[kind, scale] = encode(values, stored_as(name, self._dtype))
        return self._tables[kind, scale]
