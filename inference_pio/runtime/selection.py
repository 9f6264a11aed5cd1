"""Exact top-k, nucleus and inverse-CDF selection over a vocabulary, without sorting the vocabulary.

Arrays are 1-D float32 logits that hold no NaN and at least one finite value; results are int64 positions.
`Softmax` carries what turns logits into weights: w = exp((logit - peak) / temperature), so the peak weighs 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Positions = NDArray[np.int64]

# Candidates that are sorted outright; a nucleus is nearly always smaller.
_HEAD = 256
# Rows of the view whose column maxima bound the k-th largest value.
_GROUP = 128
# Weights that are summed together before the sums are searched.
_BLOCK = 512


@dataclass(frozen=True)
class Softmax:
    """The scale of a softmax: the largest logit and the temperature, which must be > 0."""

    peak: float
    temperature: float

    def weights(self, logits: Floats) -> Doubles:
        """Unnormalised probabilities in float64, for a few logits."""
        with np.errstate(over="ignore", under="ignore"):
            weights: Doubles = np.exp((logits.astype(np.float64) - self.peak) / self.temperature)
        return weights

    def many_weights(self, logits: Floats) -> Floats:
        """Unnormalised probabilities in float32, for a whole vocabulary in two passes over one buffer."""
        with np.errstate(over="ignore", under="ignore"):
            weights = logits - np.float32(self.peak)
            if self.temperature != 1.0:
                weights /= np.float32(self.temperature)
            return np.exp(weights, out=weights)


def top_k(logits: Floats, k: int) -> Positions:
    """Positions, ascending, of all finite logits that reach the k-th largest value; ties all stay.

    The column maxima of a [128, V / 128] view are V / 128 entries of the array, so the k-th largest of
    them is a lower bound of the k-th largest entry: few entries reach it, and only those are partitioned.
    """
    lowest = np.finfo(np.float32).min
    if k >= logits.size:
        return np.flatnonzero(logits >= lowest)
    columns = logits.size // _GROUP
    if k * 4 > columns:
        return np.flatnonzero(logits >= max(_kth_largest(logits, k), lowest))
    maxima = logits[: columns * _GROUP].reshape(_GROUP, columns).max(axis=0)
    candidates = np.flatnonzero(logits >= max(_kth_largest(maxima, k), lowest))
    if candidates.size <= k:
        return candidates
    values = logits[candidates]
    return candidates[values >= _kth_largest(values, k)]


def best(logits: Floats, count: int) -> Positions:
    """Positions of the `count` largest logits, best first, the lower position first among equals."""
    positions = top_k(logits, count)
    return positions[np.argsort(-logits[positions], kind="stable")[:count]]


def nucleus(logits: Floats, softmax: Softmax, mass: float, total: float | None = None) -> Positions:
    """Positions, ascending, of the fewest largest logits whose probabilities reach `mass` (0 < mass <= 1).

    Probabilities are over all of `logits`, or with `total` over more, whose weights have that sum; then all positions
    come back when they do not reach it. Of equal logits at the edge the lower positions stay.
    """
    small = logits.size <= _HEAD
    if total is None:
        total = _sum(softmax.weights(logits) if small else softmax.many_weights(logits))
    needed = mass * total
    head = best(logits, min(_HEAD, logits.size))
    count = _prefix_reaching(softmax.weights(logits[head]), needed)
    if count is not None or small:
        return np.sort(head[:count])
    edge, size = _edge(logits, softmax, needed)
    inside = logits > edge
    inside[np.flatnonzero(logits == edge)[: size - np.count_nonzero(inside)]] = True
    return np.flatnonzero(inside)


def draw(weights: NDArray[np.floating], uniform: float) -> int:
    """Position where the running sum of weights (>= 0) passes the share `uniform`, in [0, 1), of their total."""
    if weights.size <= _BLOCK:
        return _draw_within(weights.astype(np.float64), uniform)
    starts = np.arange(0, weights.size, _BLOCK)
    sums = np.add.reduceat(weights, starts).astype(np.float64)
    running = np.cumsum(sums)
    target = uniform * running[-1]
    block = _position(running, target)
    before = running[block - 1] if block else 0.0
    inside = weights[starts[block] : starts[block] + _BLOCK].astype(np.float64)
    return int(starts[block]) + _draw_within(inside, (target - before) / sums[block])


def _kth_largest(values: Floats, k: int) -> np.float32:
    place = values.size - k
    kth: np.float32 = np.partition(values, place)[place]
    return kth


def _sum(weights: NDArray[np.floating]) -> float:
    return float(weights.sum(dtype=np.float64))


def _prefix_reaching(weights: Doubles, needed: float) -> int | None:
    """How many of the leading weights it takes to reach `needed`; None when all together do not."""
    running = np.cumsum(weights)
    count = int(np.searchsorted(running, needed, side="left")) + 1
    return count if count <= weights.size else None


def _edge(values: Floats, softmax: Softmax, needed: float) -> tuple[np.float32, int]:
    """The smallest logit inside the nucleus, and the size of the nucleus.

    Halves the undecided values by partition (in total twice the array) instead of sorting them.
    """
    above = 0
    while values.size > _HEAD:
        middle = values.size // 2
        parted = np.partition(values, middle)
        upper = parted[middle:]
        mass = _sum(softmax.many_weights(upper))
        if mass >= needed:
            values = upper
        else:
            needed -= mass
            above += upper.size
            values = parted[:middle]
    ordered = np.sort(values)[::-1]
    count = _prefix_reaching(softmax.weights(ordered), needed) or ordered.size
    return ordered[count - 1], above + count


def _draw_within(weights: Doubles, uniform: float) -> int:
    running = np.cumsum(weights)
    return _position(running, uniform * running[-1])


def _position(running: Doubles, target: float) -> int:
    """First position whose running sum exceeds the target; rounding must not lead past the last weight."""
    position = int(np.searchsorted(running, target, side="right"))
    return min(position, int(np.searchsorted(running, running[-1], side="left")))
