"""Linear layers with a calibrated step, and perhaps columns kept exact, between QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from dataclasses import replace

from graph_cases import Handmade, context

from inference_pio.graphs.calibrated import CalibratedLinear
from inference_pio.graphs.formats import W8A8_STATIC
from inference_pio.graphs.rewrites import static_products
from inference_pio.graphs.rewrites.rewrite import apply_rewrite, prune
from inference_pio.graphs.rounding import round_channels

STEP = 0.05


class Calibrated:
    """One step for every tensor, and perhaps columns kept exact."""

    def __init__(self, made: Handmade, exact: tuple[int, ...] = (), step: float | None = STEP) -> None:
        self._made, self._exact, self._step = made, exact, step

    def linear(self, tensor: str) -> CalibratedLinear | None:
        rows = self._made.arrays[tensor].copy()
        rows[:, list(self._exact)] = 0
        codes, scales = round_channels(rows, clip=False)
        exact = self._made.arrays[tensor][:, list(self._exact)] if self._exact else None
        return CalibratedLinear(lambda a, z: (codes[a:z], scales[a:z]), self._step, self._exact, exact)

    def activation_scale(self, tensor: str) -> float | None:
        return self._step


def product(exact: tuple[int, ...] = ()) -> Handmade:
    """`one` [16, 24], a linear layer over `x` [1, rows, 24], rewritten."""
    made = Handmade()
    layer = made.linear(made.input("x", 1, "rows", 24), made.weight("one", 16, 24))
    made.output(layer, "y", 1, "rows", 16)
    asked = replace(context(formats=W8A8_STATIC), calibrated=Calibrated(made, exact))
    apply_rewrite(static_products, made.model.graph, asked, required=True)  # type: ignore[arg-type]
    prune(made.model.graph)
    return made
