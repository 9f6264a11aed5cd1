"""One layer's calibration: from statistics and float32 weights to rounded weights, scales and a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from inference_pio.calibration.gptq import Feedback
from inference_pio.calibration.observers import Observer, ObserverKind
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
from inference_pio.calibration.smoothing import Smoothing, search_smoothing, static_step
from inference_pio.calibration.statistics import TapStatistics
from inference_pio.calibration.taps import Tap
from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import FP32, Activations, FormatOf, WeightFormat

WORST_ERROR = 0.01
"""Squared error as a share of the squared output above which a linear layer is kept in float32."""


@dataclass(frozen=True)
class TapChoice:
    """What was decided for a tap; `step` is set for static inputs, `observer` names how it was found."""

    tap: Tap
    smoothing: Smoothing
    exact: tuple[int, ...]
    step: float | None = None
    observer: str | None = None

    @classmethod
    def plain(cls, tap: Tap) -> TapChoice:
        """No smoothing and no exact columns."""
        return cls(tap, Smoothing(np.ones(tap.columns, np.float32), None, 0.0, 0.0), ())

    @property
    def input(self) -> Input:
        return Input(self.smoothing.factors, self.exact, self.step)

    @property
    def changes(self) -> tuple[str, ...]:
        """The tensors that smoothing changes: those that take factors, and those that give them up."""
        absorber = self.tap.absorber
        if self.smoothing.strength is None or absorber is None:
            return ()
        return (*self.tap.linears, *absorber.tensors)


@dataclass
class LayerResult:
    """Arrays by name (see `result.py`), tensors kept in float32 although the recipe rounds them, and the report."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    exceptions: list[str] = field(default_factory=list)
    linears: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    """float32 tensors as the artifact will use them, dequantized; for measuring the layer's output."""
    formats: dict[str, WeightFormat] = field(default_factory=dict)


def choose(
    statistics: list[TapStatistics], weights: Mapping[str, np.ndarray], format_of: FormatOf, switches: Switches
) -> list[TapChoice]:
    """Exact columns and smoothing for every tap of a layer."""
    choices = []
    for stats in statistics:
        pairs = [(weights[name], format_of(name)) for name in stats.tap.linears]
        integers = any(chosen.integer_product for _, chosen in pairs)
        exact = stats.massive_channels() if integers and switches.exact_columns else ()
        smoothing = search_smoothing(stats, pairs, exact, switches.smoothing)
        choices.append(TapChoice(stats.tap, smoothing, exact))
    return choices


def choose_step(
    choice: TapChoice,
    observer: Observer,
    kind: ObserverKind | None,
    rows_TK: np.ndarray,
    pairs: list[tuple[np.ndarray, WeightFormat]],
) -> TapChoice:
    """The static step of a tap: that of the asked kind, or of the kind with the least error of the output.

    `observer` saw the smoothed activations without the exact columns; `pairs` are smoothed weights and formats. Taps
    without a static linear layer are returned as they are.
    """
    pairs = [(rows_NK, chosen) for rows_NK, chosen in pairs if chosen.activations is Activations.STATIC]
    if not pairs:
        return choice
    exact_TK = rows_TK / choice.smoothing.factors
    outputs = [exact_TK @ rows_NK.T for rows_NK, _ in pairs]

    def error(step: float) -> float:
        seen_TK = rounded_input(rows_TK, replace(choice, step=step).input, pairs[0][1])
        errors = [relative_error(out, seen_TK @ rows.T) for out, (rows, _) in zip(outputs, pairs, strict=True)]
        return float(np.mean(errors))

    step, found = best_step(observer, kind, error)
    return replace(choice, step=step, observer=found.value)


def best_step(
    observer: Observer, kind: ObserverKind | None, error: Callable[[float], float]
) -> tuple[float, ObserverKind]:
    """The step of the asked kind, or of the kind with the least `error(step)`, and its kind."""
    found = []
    for candidate in ObserverKind if kind is None else (kind,):
        step = observer.scale(candidate) or float(np.finfo(np.float32).tiny)
        found.append((error(step), step, candidate))
    _, step, candidate = min(found, key=lambda entry: entry[0])
    return step, candidate


def fold(tensors: dict[str, np.ndarray], choices: list[TapChoice]) -> None:
    """Move all smoothing into a layer's tensors, which are replaced one by one; the layer computes the same."""
    for choice in choices:
        factors_K, absorber = choice.smoothing.factors, choice.tap.absorber
        if choice.smoothing.strength is None or absorber is None:
            continue
        for name in choice.tap.linears:
            tensors[name] = tensors[name] * factors_K
        rows_R = np.ones(int(absorber.rows.max()) + 1, np.float32)
        rows_R[absorber.rows] = factors_K
        for name in absorber.tensors:
            tensor = tensors[name]
            tensors[name] = tensor / (rows_R if tensor.ndim == 1 else rows_R[:, None])


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
