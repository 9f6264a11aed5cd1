"""A few random experts for tests of their routing and calibration."""

from typing import Any

import numpy as np

from inference_pio.calibration.routing import Experts
from inference_pio.graphs.spec import Scoring
from inference_pio.graphs.weights import Rows

HIDDEN, WIDTH, COUNT = 32, 16, 4


def small(scoring: Scoring = Scoring.SOFTMAX, seed: int = 0, **more: Any) -> tuple[Experts, dict[str, np.ndarray]]:
    """Random experts and their arrays."""
    rng = np.random.default_rng(seed)
    arrays = {"router": rng.normal(0, 1, (COUNT, HIDDEN)), "bias": rng.normal(0, 0.5, COUNT)}
    for expert in range(COUNT):
        arrays[f"{expert}.gate"], arrays[f"{expert}.up"] = rng.normal(0, 0.3, (2, WIDTH, HIDDEN))
        arrays[f"{expert}.down"] = rng.normal(0, 0.3, (HIDDEN, WIDTH))
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}

    def rows(*names: str) -> Rows:
        parts = tuple((name, len(arrays[name])) for name in names)
        return Rows(parts, arrays[names[0]].shape[1:], lambda n, start, stop: arrays[n][start:stop])

    stacked = {kind: rows(*(f"{e}.{kind}" for e in range(COUNT))) for kind in ("gate", "up", "down")}
    facts = {"active": 2, "normalize": True, "scale": 1.0, **more}
    bias = rows("bias") if scoring is Scoring.SIGMOID else None
    return Experts(scoring=scoring, router=rows("router"), bias=bias, **stacked, **facts), arrays


def tokens(count: int = 200) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (count, HIDDEN)).astype(np.float32)
