"""Quantized linear layers in numpy: the arithmetic of each format, to judge choices by the error of the output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from inference_pio.graphs.formats import Activations, WeightFormat
from inference_pio.graphs.rounding import dequantize_blocks, dequantize_channels, round_blocks, round_channels

ROWS = 256
"""Rows of a weight that are rounded at a time."""


@dataclass(frozen=True)
class Input:
    """How a tap's rows are treated: divided by `factors`, `exact` columns left alone, one `step` where static.

    Only integer products have exact columns; for other formats of the same tap they are columns like any.
    """

    factors: np.ndarray
    exact: tuple[int, ...] = ()
    step: float | None = None


def rounded_input(x_TK: np.ndarray, how: Input, chosen: WeightFormat) -> np.ndarray:
    """The rows as the kernel of a format sees them, float32 [T, K]."""
    x_TK = x_TK / how.factors
    if not chosen.quantized or chosen.activations is Activations.EXACT:
        return x_TK
    exact, inner = list(exact_columns(how.exact, chosen)), x_TK.copy()
    inner[:, exact] = 0
    if chosen.activations is Activations.STATIC:
        assert how.step is not None
        rounded = np.clip(np.rint(inner / np.float32(how.step)), -128, 127) * np.float32(how.step)
    elif chosen.integer_product:
        rounded = _per_row(inner)
    else:
        rounded = _per_block(inner, chosen.block(x_TK.shape[1]))
    rounded[:, exact] = x_TK[:, exact]
    return rounded.astype(np.float32, copy=False)


def exact_columns(exact: tuple[int, ...], chosen: WeightFormat) -> tuple[int, ...]:
    """Those of a tap's exact columns that a linear layer of this format has: all, or none."""
    return exact if chosen.integer_product else ()


def _per_row(x_TK: np.ndarray) -> np.ndarray:
    """Two divisions, as the graph makes them: a product with 127 / largest would round near ties to the other side."""
    largest = np.abs(x_TK).max(axis=1, keepdims=True)
    levels = np.rint(x_TK / np.where(largest > 0, largest, np.float32(1)) / np.float32(1 / 127))
    return levels * (largest / np.float32(127))


def _per_block(x_TK: np.ndarray, block: int) -> np.ndarray:
    tokens, columns = x_TK.shape
    blocks = np.pad(x_TK, ((0, 0), (0, -columns % block))).reshape(tokens, -1, block)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    return (np.rint(blocks * inverse) * (largest / np.float32(127))).reshape(tokens, -1)[:, :columns]


def round_weight(
    rows_NK: np.ndarray, chosen: WeightFormat, clip: bool, importance_K: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales in the layout of a format; see `graphs.rounding`. Temporaries are of a piece of the rows."""
    pieces = [_round_rows(rows_NK[rows], chosen, clip, importance_K) for rows in _pieces(rows_NK)]
    return np.concatenate([codes for codes, _ in pieces]), np.concatenate([scales for _, scales in pieces])


def plainly_rounded(rows_NK: np.ndarray, factors_K: np.ndarray, chosen: WeightFormat) -> np.ndarray:
    """float32 [N, K]: the weights times `factors_K`, rounded to nearest with scales that clip nothing."""
    found_NK = np.empty_like(rows_NK)
    for rows in _pieces(rows_NK):
        codes, scales = _round_rows(rows_NK[rows] * factors_K, chosen, False, None)
        found_NK[rows] = dequantized(codes, scales, chosen, rows_NK.shape[1])
    return found_NK


def dequantized(codes: np.ndarray, scales: np.ndarray, chosen: WeightFormat, columns: int) -> np.ndarray:
    """float32 [N, K] of codes in the layout of a format."""
    if chosen.integer_product:
        return dequantize_channels(codes, scales)
    return dequantize_blocks(codes, scales, chosen.bits, columns)


def relative_error(exact_TN: np.ndarray, found_TN: np.ndarray) -> float:
    """Squared error as a share of the squared output."""
    power = float(np.square(exact_TN, dtype=np.float64).sum())
    return float(np.square(found_TN - exact_TN, dtype=np.float64).sum()) / power if power > 0 else 0.0


def _pieces(rows_NK: np.ndarray) -> Iterator[slice]:
    return (slice(start, start + ROWS) for start in range(0, len(rows_NK), ROWS))


def _round_rows(
    rows_NK: np.ndarray, chosen: WeightFormat, clip: bool, importance_K: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    if chosen.integer_product:
        return round_channels(rows_NK, clip, importance_K)
    return round_blocks(rows_NK, chosen.bits, chosen.block(rows_NK.shape[1]), clip, importance_K)
