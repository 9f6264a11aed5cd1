"""One small layer, random activations of it, and what tests of its calibration share."""

from collections.abc import Callable

import numpy as np
from graph_cases import arrays_of, canonical, spec_with

from inference_pio.calibration.choices import TapChoice, fold
from inference_pio.calibration.layer_graphs import LayerGraph, cut
from inference_pio.calibration.options import Switches
from inference_pio.calibration.statistics import TapStatistics
from inference_pio.calibration.taps import find_taps
from inference_pio.graphs.formats import W8A8, W8A8_STATIC, WeightFormat

SPEC = spec_with(windows=(None,), kv_heads=2)
LAYERS = cut(canonical(SPEC))
LAYER: LayerGraph = LAYERS.layers[0]
WEIGHTS = {str(v.name): arrays_of(SPEC)[str(v.name)] for v in LAYER.weights}
Q, K, V, OUT, GATE, UP, DOWN = (
    f"model.layers.0.{name}.weight"
    for name in (
        *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    )
)
LINEARS = (Q, K, V, OUT, GATE, UP, DOWN)
INT8, INT4 = WeightFormat(8), WeightFormat(4)
OFF = Switches(False, False, False, False, False)
FORMATS = {"w8a8": W8A8, "w8a8-static": W8A8_STATIC, "int8": INT8, "int4": INT4}
Edit = Callable[[str, np.ndarray], None]


def observed(edit: Edit = lambda name, x_TK: None) -> list[TapStatistics]:
    """Statistics of random activations with a few large channels; `edit` may change those of a tap."""
    found = []
    for number, tap in enumerate(find_taps(LAYER)):
        statistics = TapStatistics(tap, 2, True)
        for sample in range(2):
            x_TK = np.random.default_rng(10 * number + sample).normal(size=(60, tap.columns)).astype(np.float32)
            x_TK[:, ::11] *= 25
            edit(tap.name, x_TK)
            statistics.update(x_TK)
        found.append(statistics)
    return found


def massive(name: str, x_TK: np.ndarray) -> None:
    x_TK[0, 5] = 9000


def folded(choices: list[TapChoice], weights: dict[str, np.ndarray] = WEIGHTS) -> dict[str, np.ndarray]:
    tensors = dict(weights)
    fold(tensors, choices)
    return tensors
