"""Running statistics of activations, in bounded memory, to choose one int8 scale per tensor."""

from __future__ import annotations

import math
from enum import Enum

import numpy as np

from inference_pio.errors import BadInputError

LEVELS = 127
"""Steps on either side of zero; symmetric int8 leaves -128 unused."""
PERCENTILE = 99.99
"""Percent of all values that its clip leaves as they are."""

_SHIFT = 16
"""Mantissa bits that one bin of |x| spans: 128 bins to an octave, each less than 0.8 % wide."""
_BINS = (0x7F7FFFFF >> _SHIFT) + 2
_INFINITY = 0x7F800000
_PIECE = 1 << 18
"""Elements counted at a time."""

_LINEAR_BINS, _FIRST, _STRIDE = 2048, 128, 4
"""Entropy: bins from 0 to the maximum, the smallest clip tried and the distance of clips, both in bins."""
_OCTAVES, _PER_OCTAVE = 12, 16
"""MSE: how far below the maximum clips are tried, and how many to a factor of two."""


class ObserverKind(Enum):
    """How the largest representable magnitude (the clip) is chosen."""

    MIN_MAX = "min-max"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


class Observer:
    """What the activations of one tensor were: a histogram of magnitudes and a maximum per channel.

    Every bin holds the magnitudes above one float32 and up to another with the same leading bits, counted as integers;
    maxima are exact. So neither the chunks that tokens come in nor their order change any result, bit for bit. Memory
    is 256 KB and 4 bytes per channel.
    """

    def __init__(self, name: str, channels: int) -> None:
        self.name = name
        self._counts = np.zeros(_BINS, np.int64)
        self._channel_bits_K = np.zeros(channels, np.uint32)

    @property
    def elements(self) -> int:
        """How many numbers were seen."""
        return int(self._counts.sum())

    def update(self, x_TK: np.ndarray) -> None:
        """Counts float32 [tokens, channels]; raises BadInputError for another shape, and NaN or infinity.

        After an error nothing of the chunk is counted.
        """
        channels = len(self._channel_bits_K)
        if x_TK.ndim != 2 or x_TK.shape[1] != channels or x_TK.dtype != np.float32:
            found = f"{x_TK.dtype} {list(x_TK.shape)}"
            raise BadInputError(f"activations of {self.name} are {found}: give float32 [tokens, {channels}]")
        counts, top_K = np.zeros_like(self._counts), self._channel_bits_K.copy()
        rows = max(_PIECE // channels, 1)
        for start in range(0, len(x_TK), rows):
            bits_TK = np.ascontiguousarray(x_TK[start : start + rows]).view(np.uint32) & np.uint32(0x7FFFFFFF)
            np.maximum(top_K, bits_TK.max(axis=0), out=top_K)
            if top_K.max() >= _INFINITY:
                channel = int(top_K.argmax())
                raise BadInputError(
                    f"channel {channel} of the activations of {self.name} is NaN or infinite: check the checkpoint "
                    "and the calibration text"
                )
            bits_TK += np.uint32((1 << _SHIFT) - 1)
            bits_TK >>= np.uint32(_SHIFT)
            counts += np.bincount(bits_TK.reshape(-1), minlength=_BINS)
        self._counts += counts
        self._channel_bits_K = top_K

    def channel_max(self) -> np.ndarray:
        """The largest magnitude of every channel, float32 [channels]; 0 where nothing was seen."""
        return self._channel_bits_K.view(np.float32).copy()

    def scale(self, kind: ObserverKind) -> float:
        """The width of a step by `kind`: a value is `level * scale` with levels -127..127.

        0.0 when all activations are zero, or so small that the scale would be no normal float32: the caller decides
        what an empty range means. Raises BadInputError when nothing was seen.
        """
        if self.elements == 0:
            raise BadInputError(f"{self.name} saw no calibration tokens: use more or other calibration text")
        largest = float(self.channel_max().max())
        if largest == 0:
            return 0.0
        if kind is ObserverKind.MIN_MAX:
            clip = largest
        elif kind is ObserverKind.PERCENTILE:
            clip = _percentile_clip(self._counts, largest)
        elif kind is ObserverKind.ENTROPY:
            clip = _entropy_clip(self._counts, largest)
        else:
            clip = _mse_clip(self._counts, largest)
        scale = np.float32(clip) / np.float32(LEVELS)
        return float(scale) if scale >= np.finfo(np.float32).tiny else 0.0


def _upper_edges(largest: float) -> np.ndarray:
    """The largest magnitude that each bin can hold, float64 [bins]; bin 0 holds zeros alone."""
    edges = (np.arange(_BINS, dtype=np.uint32) << np.uint32(_SHIFT)).view(np.float32).astype(np.float64)
    return np.minimum(edges, largest)


def _percentile_clip(counts: np.ndarray, largest: float) -> float:
    """The edge that at least PERCENTILE % of all values, zeros included, do not exceed; never 0."""
    cumulative = counts.cumsum()
    rank = math.ceil(PERCENTILE / 100 * int(cumulative[-1]))
    edge = float(_upper_edges(largest)[np.searchsorted(cumulative, min(rank, int(cumulative[-1])))])
    return edge if edge > 0 else largest


def _entropy_clip(counts: np.ndarray, largest: float) -> float:
    """TensorRT's calibrator (Migacz, 8-bit inference with TensorRT, GTC 2017): the clip with the least KL divergence.

    The magnitudes clipped, the excess in the last bin, are the reference; 128 levels of the magnitudes below the clip,
    spread over the bins that are not empty, stand for the quantized ones. As in NVIDIA's code the first bin, which
    zeros fill, counts like the second. Linear bins share a logarithmic one by their overlap.
    """
    edges = np.linspace(0, largest, _LINEAR_BINS + 1)
    below = np.interp(edges, _upper_edges(largest), np.concatenate([[0], counts[1:].cumsum()]).astype(np.float64))
    histogram = np.maximum(np.diff(below), 0)
    histogram[0] = histogram[1]
    total = histogram.sum()
    best, clip = math.inf, largest
    for kept in range(_LINEAR_BINS, _FIRST - 1, -_STRIDE):
        reference = histogram[:kept].copy()
        filled = reference > 0
        level = np.arange(kept) * _FIRST // kept
        sums = np.bincount(level, reference, _FIRST)
        members = np.bincount(level, filled, _FIRST)
        share = np.divide(sums, members, out=np.zeros(_FIRST), where=members > 0)
        reference[-1] += histogram[kept:].sum()
        # An excess over an empty last bin is infinitely far off.
        if sums.sum() == 0 or (reference[-1] > 0 and not filled[-1]):
            continue
        p, q = reference[filled] / total, share[level][filled] / sums.sum()
        divergence = float((p * np.log(p / q)).sum())
        if divergence < best:
            best, clip = divergence, float(edges[kept])
    return clip


def _mse_clip(counts: np.ndarray, largest: float) -> float:
    """The clip with the least expected squared error of rounding and clipping, values spread evenly in their bin."""
    filled = counts[1:].nonzero()[0] + 1
    edges, number = _upper_edges(largest), counts[filled].astype(np.float64)
    low, high = edges[filled - 1], edges[filled]
    best, clip = math.inf, largest
    for step in range(_OCTAVES * _PER_OCTAVE):
        tried = largest * 2.0 ** (-step / _PER_OCTAVE)
        scale = tried / LEVELS
        below, above = low / scale, high / scale
        error = float((number * (_integral(above) - _integral(below)) / (above - below)).sum()) * scale * scale
        if error < best:
            best, clip = error, tried
    return clip


def _integral(u: np.ndarray) -> np.ndarray:
    """The integral from 0 to u of the squared distance to the nearest of the levels 0..127."""
    level = np.minimum(np.rint(u), LEVELS)
    return level / 12 + (u - level) ** 3 / 3
