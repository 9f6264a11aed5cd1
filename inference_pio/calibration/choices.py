"""What is decided for the inputs of a layer's linear weights: exact columns, smoothing, static steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from inference_pio.calibration.observers import Observer, ObserverKind
from inference_pio.calibration.options import Switches
from inference_pio.calibration.products import Input, relative_error, rounded_input
from inference_pio.calibration.smoothing import Smoothing, search_smoothing
from inference_pio.calibration.statistics import TapStatistics
from inference_pio.calibration.taps import Tap
from inference_pio.graphs.formats import Activations, FormatOf, WeightFormat


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
