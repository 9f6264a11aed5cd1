"""Round-to-nearest of weights: with the scales that clip nothing, or with those of the least squared error.

A row's result never depends on the rows beside it, so that callers may pass any chunks of rows.
"""

from __future__ import annotations

import numpy as np

from inference_pio.errors import BadInputError

RATIOS = tuple(1 - step / 40 for step in range(21))
"""Scales tried, relative to the one that clips nothing: 1.0 down to 0.5."""
FEW_RATIOS = (1.0, 0.93, 0.86, 0.79)
"""Those tried at four bits where all errors weigh alike: the others win nothing (2e-3 of the squared error)."""
FITS = 2
"""How often the best of them is replaced by the scale that suits its levels best, which then change a little."""

_PIECE = 1 << 15
"""Elements searched at a time: the temporaries of one piece stay in the processor's cache."""


def round_channels(
    rows_NK: np.ndarray, clip: bool, importance_K: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 rounding of float32 rows with one scale each.

    Returns levels int8 [N, K] in -127..127 and scales float32 [N]; a value is `level * scale`. Without `clip` the scale
    is max|w| / 127; with it, the one with the least sum of squared errors that a search finds, weighted by
    `importance_K` (mean squared activation of every input channel; None weighs all alike). A row whose scale is no
    normal float32 becomes zero. Raises BadInputError for an importance of another length, negative or not finite.
    """
    scales_N = channel_scales(rows_NK, clip, importance_K)
    levels_NK = levels_of(rows_NK, inverse_of(scales_N)[:, None], -127, 127)
    return levels_NK.astype(np.int8), scales_N


def round_blocks(
    rows_NK: np.ndarray, bits: int, block: int, clip: bool, importance_K: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric rounding in blocks along the row, in the layout of ONNX Runtime's MatMulNBits.

    Returns data uint8 [N, blocks, block * bits / 8] (zero point 2^(bits-1), two 4-bit values to a byte, the first in
    the low half) and scales float32 [N, blocks]; a value is `(data - zero_point) * scale`. Without `clip` eight bits
    use the scale max|w| / 127, and four bits map the block's largest magnitude to -8 exactly, sign included, so that
    all 16 levels serve. With it every block takes the scale with the least sum of squared errors that a search finds,
    weighted by `importance_K` (as in `round_channels`). A block whose scale is no normal float32 becomes zero: its
    inverse would be infinite. Raises BadInputError as `round_channels` does, and for other bits than 4 and 8 or an odd
    block.
    """
    values_NBL = in_blocks(rows_NK, bits, block)
    importance_BL = None
    if importance_K is not None:
        importance_BL = in_blocks(checked_importance(importance_K, rows_NK.shape[1])[None], bits, block)[0]
    scales_NB = block_scales(values_NBL, bits, clip, importance_BL)
    return pack(block_levels(values_NBL, inverse_of(scales_NB)[:, :, None], bits), bits), scales_NB


def dequantize_channels(levels_NK: np.ndarray, scales_N: np.ndarray) -> np.ndarray:
    """float32 [N, K] of what `round_channels` returned."""
    values_NK = levels_NK.astype(np.float32)
    values_NK *= scales_N[:, None]
    return values_NK


def dequantize_blocks(data: np.ndarray, scales_NB: np.ndarray, bits: int, columns: int) -> np.ndarray:
    """float32 [N, columns] of what `round_blocks` returned."""
    if bits == 4:
        data = np.stack([data & 15, data >> 4], axis=-1).reshape(*data.shape[:2], -1)
    values = data.astype(np.float32)
    values -= np.float32(1 << (bits - 1))
    values *= scales_NB[:, :, None]
    return values.reshape(len(data), -1)[:, :columns]


def channel_scales(rows_NK: np.ndarray, clip: bool, importance_K: np.ndarray | None) -> np.ndarray:
    """The scales that `round_channels` uses, float32 [N]."""
    scales_N = _normal(np.maximum(rows_NK.max(axis=1), -rows_NK.min(axis=1)) / np.float32(127))
    if not clip:
        return scales_N
    if importance_K is not None:
        importance_K = checked_importance(importance_K, rows_NK.shape[1])
    return _normal(scales_N * _best_ratios(rows_NK, scales_N, (-127, 127), RATIOS, importance_K))


def block_scales(values_NBL: np.ndarray, bits: int, clip: bool, importance_BL: np.ndarray | None) -> np.ndarray:
    """The scales that `round_blocks` uses, float32 [N, blocks], of float32 [N, blocks, block]."""
    high, low = values_NBL.max(axis=2), values_NBL.min(axis=2)
    if bits == 8:
        scales = np.maximum(high, -low) / np.float32(127)
    else:
        scales = np.where(high > -low, high, low) / np.float32(-8)
    scales_NB = _normal(scales)
    if not clip:
        return scales_NB
    half = 1 << (bits - 1)
    ratios = RATIOS
    if bits == 4:
        ratios = FEW_RATIOS if importance_BL is None else RATIOS
        # With the opposite sign the largest magnitude lies on the short side, whose last level is 7.
        ratios += tuple(-ratio * 8 / 7 for ratio in ratios)
    return _normal(scales_NB * _best_ratios(values_NBL, scales_NB, (-half, half - 1), ratios, importance_BL))


def levels_of(values: np.ndarray, inverse: np.ndarray, low: int, high: int) -> np.ndarray:
    """The nearest levels from `low` to `high`, as float32; `inverse` (of the scales) broadcasts to `values`."""
    levels = values * inverse
    np.rint(levels, out=levels)
    return np.clip(levels, low, high, out=levels)


def block_levels(values: np.ndarray, inverse: np.ndarray, bits: int) -> np.ndarray:
    """As `levels_of` over all levels that `bits` hold, with the zero point 2^(bits-1) added: uint8."""
    half = 1 << (bits - 1)
    return (levels_of(values, inverse, -half, half - 1) + np.float32(half)).astype(np.uint8)


def pack(levels_NBL: np.ndarray, bits: int) -> np.ndarray:
    """uint8 levels with two 4-bit ones to a byte, the first in the low half."""
    return levels_NBL if bits == 8 else levels_NBL[:, :, 0::2] | (levels_NBL[:, :, 1::2] << 4)


def inverse_of(scales: np.ndarray) -> np.ndarray:
    """1 / scales, and 0 for scales of 0."""
    return np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)


def in_blocks(rows_NK: np.ndarray, bits: int, block: int) -> np.ndarray:
    """float32 [N, blocks, block], the last block padded with zeros; raises BadInputError for a layout that is none."""
    if bits not in (4, 8) or block < 2 or block % 2:
        raise BadInputError(f"blocks of {block} values of {bits} bits cannot be stored: use 4 or 8 bits, an even block")
    rows, columns = rows_NK.shape
    blocks = -(-columns // block)
    if blocks * block != columns:
        rows_NK = np.pad(rows_NK, ((0, 0), (0, blocks * block - columns)))
    return np.ascontiguousarray(rows_NK).reshape(rows, blocks, block)


def checked_importance(importance_K: np.ndarray, columns: int) -> np.ndarray:
    """float32 with a largest value of 1, whatever the unit was; raises BadInputError for what cannot be weights."""
    if importance_K.shape != (columns,):
        raise BadInputError(f"importance has shape {list(importance_K.shape)}: give one value for each of {columns}")
    if not np.isfinite(importance_K).all() or importance_K.min() < 0:
        raise BadInputError("importance has a value that is negative, NaN or infinite: give mean squared activations")
    largest = importance_K.max()
    return (importance_K / largest if largest > 0 else importance_K).astype(np.float32)


def _normal(scales: np.ndarray) -> np.ndarray:
    scales[np.abs(scales) < np.finfo(np.float32).tiny] = 0
    return scales


def _best_ratios(
    values: np.ndarray,
    scales: np.ndarray,
    levels: tuple[int, int],
    ratios: tuple[float, ...],
    importance: np.ndarray | None,
) -> np.ndarray:
    """For the last axis of `values` [N, ..., L]: the ratio to `scales` [N, ...] with the least weighted error.

    `importance` broadcasts to `values`. Values are measured in steps of their scale, so nothing can overflow. The first
    of equal ratios wins, and is fitted to its levels by least squares.
    """
    chosen = np.ones_like(scales)
    count = max(_PIECE * len(values) // max(values.size, 1), 1)
    for start in range(0, len(values), count):
        rows = slice(start, start + count)
        steps = values[rows] * inverse_of(scales[rows])[..., None]
        weighted = steps if importance is None else steps * importance
        found, best = chosen[rows], np.full(steps.shape[:-1], np.inf, np.float32)
        for ratio in ratios:
            error = levels_of(steps, np.array(1 / ratio, np.float32), *levels)
            error *= np.float32(ratio)
            error -= steps
            total = _dot(error, error if importance is None else error * importance)
            better = total < best
            np.copyto(best, total, where=better)
            np.copyto(found, np.float32(ratio), where=better)
        for _ in range(FITS):
            fitted = levels_of(steps, (1 / found)[..., None], *levels)
            power = _dot(fitted, fitted if importance is None else fitted * importance)
            np.divide(_dot(weighted, fitted), power, out=found, where=power >= np.finfo(np.float32).tiny)
    return chosen


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sums of products along the last axis."""
    found: np.ndarray = np.einsum("...l,...l->...", a, b)
    return found
