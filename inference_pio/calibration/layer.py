"""One layer's calibration: from statistics and float32 weights to rounded weights, scales and a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from inference_pio.calibration.choices import TapChoice
from inference_pio.calibration.gptq import Feedback
from inference_pio.calibration.options import Switches
from inference_pio.calibration.products import (
    Input,
    dequantized,
    exact_columns,
    plainly_rounded,
    relative_error,
    round_weight,
    rounded_input,
)
from inference_pio.calibration.smoothing import static_step
from inference_pio.calibration.statistics import TapStatistics
from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import FP32, Activations, FormatOf, WeightFormat

WORST_ERROR = 0.01
"""Squared error as a share of the squared output above which a linear layer is kept in float32."""


@dataclass
class LayerResult:
    """Arrays by name (see `result.py`), tensors kept in float32 although the recipe rounds them, and the report."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    exceptions: list[str] = field(default_factory=list)
    linears: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    """float32 tensors as the artifact will use them, dequantized; for measuring the layer's output."""
    formats: dict[str, WeightFormat] = field(default_factory=dict)


def emit(
    statistics: list[TapStatistics],
    choices: list[TapChoice],
    tensors: dict[str, np.ndarray],
    format_of: FormatOf,
    switches: Switches,
) -> LayerResult:
    """Round every linear layer of the recipe and gather what the export needs.

    `tensors` are the layer's, folded; the result takes them over, so that rounded ones are not held beside them.
    """
    result = LayerResult(weights=tensors)
    for stats, choice in zip(statistics, choices, strict=True):
        formats = {name: format_of(name) for name in choice.tap.linears}
        feedback = _feedback(stats, choice, formats, switches)
        rounded = {
            name: _round(name, tensors[name], chosen, stats, choice, switches, feedback)
            for name, chosen in formats.items()
            if chosen.quantized
        }
        failing = [name for name, linear in rounded.items() if linear.error > WORST_ERROR]
        if failing and switches.exceptions and any(formats[name].integer_product for name in rounded):
            result.exceptions += rounded  # layers that read one value are packed, so they stay together
        for name, linear in rounded.items():
            kept = name in result.exceptions
            result.formats[name] = FP32 if kept else formats[name]
            result.linears.append(_facts(name, linear, choice, kept))
            if not kept:
                result.arrays |= linear.arrays(name, choice)
                tensors[name] = linear.weight(formats[name], choice)
    changed = dict.fromkeys(name for choice in choices for name in choice.changes)
    result.arrays |= {name: tensors[name] for name in changed if f"{name}.codes" not in result.arrays}
    return result


@dataclass(frozen=True)
class _Rounded:
    """Codes and scales of a weight [N, K], its exact columns float32 [N, exact], and the errors of its output."""

    codes: np.ndarray
    scales: np.ndarray
    exact: np.ndarray
    static: bool
    error: float = 0.0
    plain_error: float = 0.0

    def weight(self, chosen: WeightFormat, choice: TapChoice) -> np.ndarray:
        """float32 [N, K] as the artifact will use it."""
        found_NK = dequantized(self.codes, self.scales, chosen, choice.tap.columns)
        found_NK[:, list(exact_columns(choice.exact, chosen))] = self.exact
        return found_NK

    def arrays(self, name: str, choice: TapChoice) -> dict[str, np.ndarray]:
        arrays = {f"{name}.codes": self.codes, f"{name}.scales": self.scales}
        if self.exact.shape[1]:
            arrays[f"{name}.exact_columns"] = np.array(choice.exact, np.int64)
            arrays[f"{name}.exact_weights"] = self.exact
        if self.static:
            arrays[f"{name}.activation_scale"] = np.array([choice.step], np.float32)
        return arrays


def _round(
    name: str,
    rows_NK: np.ndarray,
    chosen: WeightFormat,
    stats: TapStatistics,
    choice: TapChoice,
    switches: Switches,
    feedback: Feedback | None,
) -> _Rounded:
    factors_K, columns = choice.smoothing.factors, rows_NK.shape[1]
    exact, static = list(exact_columns(choice.exact, chosen)), chosen.activations is Activations.STATIC
    inner_NK = rows_NK
    if exact:
        inner_NK = rows_NK.copy()
        inner_NK[:, exact] = 0
    if feedback is not None and chosen.bits == 4:
        codes, scales = feedback.round_blocks(inner_NK, 4, chosen.block(columns), switches.clipping)
    else:
        importance_K = stats.importance() / np.square(factors_K)
        codes, scales = round_weight(inner_NK, chosen, switches.clipping, importance_K)
    del inner_NK
    x_TK = stats.rows()
    exact_TN = (x_TK / factors_K) @ rows_NK.T
    found = _Rounded(codes, scales, rows_NK[:, exact], static)
    error = relative_error(exact_TN, rounded_input(x_TK, choice.input, chosen) @ found.weight(chosen, choice).T)
    if not np.isfinite(error):
        raise BadInputError(f"the output of '{name}' is not finite: check the checkpoint")
    return replace(found, error=error, plain_error=_plain_error(stats, rows_NK, factors_K, exact_TN, chosen))


def _plain_error(
    stats: TapStatistics, rows_NK: np.ndarray, factors_K: np.ndarray, exact_TN: np.ndarray, chosen: WeightFormat
) -> float:
    """The error of rounding to nearest with scales that clip nothing, all steps off; `rows_NK` are smoothed."""
    ones = np.ones(rows_NK.shape[1], np.float32)
    step = static_step(stats.channel_max(), ones, ()) if chosen.activations is Activations.STATIC else None
    seen_TK = rounded_input(stats.rows(), Input(ones, (), step), chosen)
    return relative_error(exact_TN, seen_TK @ plainly_rounded(rows_NK, 1 / factors_K, chosen).T)


def _feedback(
    stats: TapStatistics, choice: TapChoice, formats: Mapping[str, WeightFormat], switches: Switches
) -> Feedback | None:
    wanted = switches.second_order and any(chosen.quantized and chosen.bits == 4 for chosen in formats.values())
    return Feedback.of(stats.take_gram(choice.smoothing.factors)) if wanted else None


def _facts(name: str, linear: _Rounded, choice: TapChoice, kept: bool) -> dict[str, Any]:
    return {
        "tensor": name,
        "error": linear.error,
        "plain_error": linear.plain_error,
        "smoothing": choice.smoothing.strength,
        "exact_columns": linear.exact.shape[1],
        "observer": choice.observer if linear.static else None,
        "kept_in_float32": kept,
    }
