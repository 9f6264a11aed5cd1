"""Static steps of products with a weight of its own for every head: the two halves of an up-projection of latents.

Such a product is a grouped convolution whose groups share the scale of their input, so there is one step for all heads.
The export rounds the weights to nearest, a scale per head and output channel; here that is only judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from inference_pio.calibration.choices import best_step
from inference_pio.calibration.layer import WORST_ERROR
from inference_pio.calibration.layer_graphs import LayerGraph
from inference_pio.calibration.observers import ObserverKind
from inference_pio.calibration.products import Input, dequantized, relative_error, round_weight, rounded_input
from inference_pio.calibration.smoothing import static_step
from inference_pio.calibration.statistics import TapStatistics
from inference_pio.calibration.taps import Tap
from inference_pio.graphs.formats import W8A8_STATIC, FormatOf
from inference_pio.graphs.rewrites import head_products
from inference_pio.graphs.source import tensor_of
from inference_pio.graphs.weights import stored_rows


@dataclass(frozen=True)
class HeadTap:
    """The input of one product, [1, H, S, K], and its weight: [H, K, N], or [H, N, K] where it is `transposed`.

    `tensor` is the checkpoint's, of which the weight is the part that `tap` is called by, and `weight` the name of the
    graph's value. `tap` has the channels of all heads side by side.
    """

    tap: Tap
    tensor: str
    weight: str
    heads: int
    transposed: bool


@dataclass
class HeadsResult:
    """Steps by the names of the graph's weights, these weights dequantized, and what `LayerResult` has besides."""

    steps: dict[str, float] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    exceptions: list[str] = field(default_factory=list)
    linears: list[dict[str, Any]] = field(default_factory=list)


class HeadStatistics:
    """What is kept of the inputs of one product over all samples."""

    def __init__(self, head_tap: HeadTap, samples: int) -> None:
        self.head_tap = head_tap
        self.all_heads = TapStatistics(head_tap.tap, samples, gram=False)

    def update(self, x_HSK: np.ndarray) -> None:
        """Take in one sample's activations, float32; raises BadInputError for NaN or infinity."""
        self.all_heads.update(x_HSK.transpose(1, 0, 2).reshape(x_HSK.shape[1], -1))


def find_head_taps(layer: LayerGraph) -> list[HeadTap]:
    """The inputs of a layer's products by head, in the order of its nodes."""
    found = []
    for node in layer.nodes:
        match = head_products.pattern(node)
        if match is not None and node.inputs[0] is not None:
            rows, (name, heads) = stored_rows(match.weight), stored_rows(match.weight).parts[0]
            columns = rows.tail[1] if match.transposed else rows.tail[0]
            tap = Tap(node.inputs[0], (name,), heads * columns, None)
            found.append(HeadTap(tap, tensor_of(rows), str(match.weight.name), heads, match.transposed))
    return found


def calibrate_heads(
    statistics: Sequence[HeadStatistics],
    weights: Mapping[str, np.ndarray],
    format_of: FormatOf,
    kind: ObserverKind | None,
    exceptions: bool,
) -> HeadsResult:
    """Steps for the products whose tensor is static, of the asked kind or of the kind with the least error.

    With `exceptions` a tensor stays float32 in all its parts when the error of one is above WORST_ERROR.
    """
    judged = [
        _judge(stats, weights[stats.head_tap.weight], kind)
        for stats in statistics
        if format_of(stats.head_tap.tensor) == W8A8_STATIC
    ]
    failing = {found.head_tap.tensor for found in judged if exceptions and found.error > WORST_ERROR}
    result = HeadsResult(exceptions=sorted(failing))
    for found in judged:
        kept = found.head_tap.tensor in failing
        result.linears.append(found.facts(kept))
        if not kept:
            result.arrays[f"{found.head_tap.tap.name}.activation_scale"] = np.array([found.step], np.float32)
            result.steps[found.head_tap.weight] = found.step
            result.weights[found.head_tap.weight] = found.weight
    return result


@dataclass(frozen=True)
class _Judged:
    head_tap: HeadTap
    step: float
    observer: ObserverKind
    weight: np.ndarray
    error: float
    plain_error: float

    def facts(self, kept: bool) -> dict[str, Any]:
        return {
            "tensor": self.head_tap.tap.name,
            "error": self.error,
            "plain_error": self.plain_error,
            "smoothing": None,
            "exact_columns": 0,
            "observer": self.observer.value,
            "kept_in_float32": kept,
        }


def _judge(stats: HeadStatistics, weight: np.ndarray, kind: ObserverKind | None) -> _Judged:
    head_tap, seen = stats.head_tap, stats.all_heads
    x_TC, ones = seen.rows(), np.ones(seen.tap.columns, np.float32)
    weight_HNK = weight if head_tap.transposed else weight.swapaxes(1, 2)
    rows_NK = weight_HNK.reshape(-1, weight_HNK.shape[2])
    codes, scales = round_weight(rows_NK, W8A8_STATIC, False, None)
    found_HNK = dequantized(codes, scales, W8A8_STATIC, rows_NK.shape[1]).reshape(weight_HNK.shape)
    exact_HTN = _product(x_TC, weight_HNK)

    def error(step: float) -> float:
        rounded_TC = rounded_input(x_TC, Input(ones, (), step), W8A8_STATIC)
        return relative_error(exact_HTN, _product(rounded_TC, found_HNK))

    step, observer = best_step(seen.observer, kind, error)
    found = found_HNK if head_tap.transposed else np.ascontiguousarray(found_HNK.swapaxes(1, 2))
    return _Judged(head_tap, step, observer, found, error(step), error(static_step(seen.channel_max(), ones, ())))


def _product(x_TC: np.ndarray, weight_HNK: np.ndarray) -> np.ndarray:
    x_HTK = x_TC.reshape(len(x_TC), len(weight_HNK), -1).swapaxes(0, 1)
    product: np.ndarray = x_HTK @ weight_HNK.swapaxes(1, 2)
    return product
