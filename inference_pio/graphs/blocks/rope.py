"""Rotary position embedding and its context-extending variants.

RoFormer (Su et al. 2021, arXiv:2104.09864); YaRN (Peng et al. 2023, arXiv:2309.00071); the `llama3` form as
published with Llama 3.1. All arithmetic is float32 in the order in which transformers does it, because an angle at
position 40,000 multiplies any difference in the frequencies by 40,000.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder


@dataclass(frozen=True)
class RopeSpec:
    """Frequencies of a rotary embedding over `dim` channels.

    `scaling` beyond 1.0 is YaRN's attention factor, multiplied into cos and sin. With `sections` (time, height, width)
    every token has three positions, of which each frequency takes one.
    """

    dim: int
    inverse_frequencies: tuple[float, ...]
    scaling: float = 1.0
    sections: tuple[int, ...] | None = None

    @property
    def streams(self) -> tuple[int, ...]:
        """The position that each frequency takes: 0 time, 1 height, 2 width.

        Interleaved as in Qwen3-VL (arXiv:2511.21631): time, height, width in turn, for three times as many frequencies
        as the height's or width's section says; time takes the rest.
        """
        found = [0] * (self.dim // 2)
        for stream in (1, 2):
            for index in range(len(found))[stream : 3 * (self.sections or (0, 0, 0))[stream] : 3]:
                found[index] = stream
        return tuple(found)

    def table(self, function: Callable[[np.ndarray], np.ndarray], start: int, stop: int) -> np.ndarray:
        """cos or sin of positions `start` to `stop`: float32 [stop - start, dim / 2]."""
        positions = np.arange(start, stop, dtype=np.float32)[:, None]
        angles = positions * np.array(self.inverse_frequencies, np.float32)
        exact = function(angles.astype(np.float64)).astype(np.float32)
        return exact * np.float32(self.scaling)


def default_frequencies(dim: int, theta: float) -> np.ndarray:
    """`theta ** -(2i / dim)` as float32 [dim / 2]."""
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    powers = np.power(np.float64(theta), exponents.astype(np.float64)).astype(np.float32)
    return np.float32(1.0) / powers


def linear_frequencies(dim: int, theta: float, factor: float) -> np.ndarray:
    """Positions squeezed by `factor`."""
    return default_frequencies(dim, theta) / np.float32(factor)


def llama3_frequencies(
    dim: int, theta: float, factor: float, low: float, high: float, original_context: int
) -> np.ndarray:
    """Long waves squeezed by `factor`, short ones kept, those between interpolated."""
    base = default_frequencies(dim, theta)
    wavelength = np.float32(2 * math.pi) / base
    squeezed = np.where(wavelength > original_context / low, base / np.float32(factor), base)
    smooth = (np.float32(original_context) / wavelength - np.float32(low)) / np.float32(high - low)
    between = (1 - smooth) * squeezed / np.float32(factor) + smooth * squeezed
    medium = (wavelength >= original_context / high) & (wavelength <= original_context / low)
    return np.where(medium, between, squeezed).astype(np.float32)


@dataclass(frozen=True)
class Yarn:
    """Parameters of YaRN as configurations name them."""

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def scaling(self) -> float:
        """The factor on cos and sin."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._mscale(self.mscale) / self._mscale(self.mscale_all_dim)
        return self._mscale(1.0)

    def _mscale(self, weight: float) -> float:
        return 1.0 if self.factor <= 1 else 0.1 * weight * math.log(self.factor) + 1.0

    def frequencies(self, dim: int, theta: float) -> np.ndarray:
        """float32 [dim / 2]."""
        low, high = (self._correction(rotations, dim, theta) for rotations in (self.beta_fast, self.beta_slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        if low == high:
            high += 0.001
        ramp = (np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
        keep = 1 - np.clip(ramp, 0, 1)
        extrapolated = default_frequencies(dim, theta)
        interpolated = np.float32(1.0) / (np.float32(self.factor) * (np.float32(1.0) / extrapolated))
        return (interpolated * (1 - keep) + extrapolated * keep).astype(np.float32)

    def _correction(self, rotations: float, dim: int, theta: float) -> float:
        return dim * math.log(self.original_context / (rotations * 2 * math.pi)) / (2 * math.log(theta))


def rotary_angles(b: GraphBuilder, rope: RopeSpec, position_ids: ir.Value) -> tuple[ir.Value, ir.Value]:
    """cos and sin of every position -> two float32 [B, S, dim / 2]; `position_ids` are [B, S], or [3, B, S]."""
    with b.scope("rope"):
        frequencies = b.const([[rope.inverse_frequencies]], np.float32)
        positions = b.op("Cast", [position_ids], {"to": int(ir.DataType.FLOAT)})
        if rope.sections is None:
            of_frequency = b.op("Unsqueeze", [positions, b.const([2])])
        else:
            chosen_DBS = b.op("Gather", [positions, b.const(rope.streams)], {"axis": 0}, name="stream_of_frequency")
            of_frequency = b.op("Transpose", [chosen_DBS], {"perm": [1, 2, 0]})
        angles = b.op("Mul", [of_frequency, frequencies], name="angles")
        cos, sin = b.op("Cos", [angles]), b.op("Sin", [angles])
        if rope.scaling != 1.0:
            factor = b.const(rope.scaling, np.float32)
            cos, sin = b.op("Mul", [cos, factor]), b.op("Mul", [sin, factor])
        return cos, sin


def rotate(
    b: GraphBuilder, x_BSN: ir.Value, angles: tuple[ir.Value, ir.Value], heads: int, interleaved: bool = False
) -> ir.Value:
    """Rotate each of `heads` heads of `x_BSN` (heads side by side in the last axis), or of an `x_BHSD`.

    A pair of channels is one of each half, or two neighbours (`interleaved`).
    """
    return b.op("RotaryEmbedding", [x_BSN, *angles], {"num_heads": heads, "interleaved": int(interleaved)})
