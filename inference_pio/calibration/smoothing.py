"""Moving magnitude from activations into the weights that meet them, channel by channel.

SmoothQuant (Xiao et al. 2022, arXiv:2211.10438) for integer products, the activation-aware scaling of AWQ (Lin et al.
2023, arXiv:2306.00978) for weights alone: channel j of the input is divided by s_j and column j of the weights
multiplied, s_j = a_j^alpha / w_j^(1 - alpha), with the strength alpha that gives the least error of the output.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inference_pio.calibration.products import (
    Input,
    dequantized,
    exact_columns,
    relative_error,
    round_weight,
    rounded_input,
)
from inference_pio.calibration.statistics import TapStatistics
from inference_pio.graphs.formats import WeightFormat

STRENGTHS = (0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9)
SEARCHED_ROWS = 512
"""Rows of the weights that strengths are judged on; every row is rounded by itself."""
WORTH_IT = 0.98
"""Smoothing is used when it leaves at most this share of the error."""
LARGEST = np.float32(1e4)


@dataclass(frozen=True)
class Smoothing:
    """Factors per input channel float32 [K] (1 everywhere without smoothing), the strength, and the error it left."""

    factors: np.ndarray
    strength: float | None
    error: float
    plain_error: float


def search_smoothing(
    statistics: TapStatistics,
    weights: list[tuple[np.ndarray, WeightFormat]],
    exact: tuple[int, ...],
    allowed: bool,
) -> Smoothing:
    """The best smoothing of a tap; `weights` are its linear layers float32 [N, K] with their formats."""
    tap = statistics.tap
    some = [(_some_rows(rows_NK), chosen) for rows_NK, chosen in weights]
    x_TK = statistics.rows()
    ones = np.ones(tap.columns, np.float32)
    outputs = [x_TK @ rows_NK.T for rows_NK, _ in some]
    plain = _error(statistics, x_TK, some, outputs, exact, ones)
    best = Smoothing(ones, None, plain, plain)
    quantized = [chosen for _, chosen in weights if chosen.quantized]
    if not allowed or tap.absorber is None or not quantized:
        return best
    rows = tap.absorber.rows
    by_largest = any(chosen.integer_product for chosen in quantized)
    activations_K = statistics.channel_max() if by_largest else np.sqrt(statistics.importance())
    weights_K = np.max([np.maximum(rows_NK.max(axis=0), -rows_NK.min(axis=0)) for rows_NK, _ in weights], axis=0)
    shared = len(np.unique(rows)) < len(rows)
    activations_R, weights_R = _by_row(activations_K, rows), _by_row(weights_K, rows)
    for strength in STRENGTHS:
        factors_K = _factors(activations_R, weights_R, strength, by_largest)[rows]
        if not shared:
            factors_K[list(exact)] = 1
        error = _error(statistics, x_TK, some, outputs, exact, factors_K)
        if error < best.error:
            best = Smoothing(factors_K, strength, error, plain)
    return best if best.error <= WORTH_IT * plain else Smoothing(ones, None, plain, plain)


def static_step(largest_K: np.ndarray, factors_K: np.ndarray, exact: tuple[int, ...]) -> float:
    """The step that clips nothing: of the largest magnitude after smoothing, exact columns left out."""
    scaled_K = largest_K / factors_K
    scaled_K[list(exact)] = 0
    return max(float(scaled_K.max()) / 127, float(np.finfo(np.float32).tiny))


def _error(
    statistics: TapStatistics,
    x_TK: np.ndarray,
    weights: list[tuple[np.ndarray, WeightFormat]],
    outputs: list[np.ndarray],
    exact: tuple[int, ...],
    factors_K: np.ndarray,
) -> float:
    """The mean relative error of the linear layers' outputs, which without rounding are `outputs`."""
    how = Input(factors_K, exact, static_step(statistics.channel_max(), factors_K, exact))
    errors = []
    for (rows_NK, chosen), output_TN in zip(weights, outputs, strict=True):
        if not chosen.quantized:
            continue
        scaled_NK, outer = rows_NK * factors_K, list(exact_columns(exact, chosen))
        inner_NK = scaled_NK.copy()
        inner_NK[:, outer] = 0
        codes, scales = round_weight(inner_NK, chosen, False, None)
        found_NK = dequantized(codes, scales, chosen, rows_NK.shape[1])
        found_NK[:, outer] = scaled_NK[:, outer]
        seen_TK = rounded_input(x_TK, how, chosen) if chosen.integer_product else x_TK / factors_K
        errors.append(relative_error(output_TN, seen_TK @ found_NK.T))
    return float(np.mean(errors)) if errors else 0.0


def _factors(activations_R: np.ndarray, weights_R: np.ndarray, strength: float, by_largest: bool) -> np.ndarray:
    tiny = np.finfo(np.float32).tiny
    alive = (activations_R > tiny) & (weights_R > tiny)
    factors = np.ones_like(activations_R)
    weight = np.power(weights_R[alive], np.float32(1 - strength)) if by_largest else np.float32(1)
    factors[alive] = np.power(activations_R[alive], np.float32(strength)) / weight
    if alive.any():
        factors[alive] /= np.exp(np.log(factors[alive]).mean(dtype=np.float64)).astype(np.float32)
    return np.clip(factors, 1 / LARGEST, LARGEST)


def _by_row(values_K: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The largest value of the channels that share a row of the absorber."""
    found = np.zeros(int(rows.max()) + 1, np.float32)
    np.maximum.at(found, rows, values_K)
    return found


def _some_rows(rows_NK: np.ndarray) -> np.ndarray:
    step = max(1, -(-len(rows_NK) // SEARCHED_ROWS))
    return rows_NK[::step]
