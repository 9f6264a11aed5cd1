"""A recipe with fewer bytes, for cards where the usual one does not fit or waits for slower memory."""

from __future__ import annotations

from collections.abc import Iterable

from inference_pio.planning.layout import NVME, RAM
from inference_pio.planning.plan import Plan, Smaller
from inference_pio.planning.weights import Part

RECIPE = "int4"
WORTH_SAYING = 1.5
"""Times the speed of the usual recipe from which on the smaller one is named beside it."""


def is_worth_a_look(usual: Plan) -> bool:
    """Whether a plan does not fit, or reads weights from a drive, or from the host beside a GPU, for every token."""
    places = {entry["place"] for entry in usual.places if entry["part"] != Part.TABLE.value}
    return not usual.fits or NVME in places or (usual.memory["gpu"] is not None and RAM in places)


def smaller(usual: Plan, plans: Iterable[Plan]) -> Smaller | None:
    """The fastest of `plans` that fits, if the `usual` one does not or is left behind by far."""
    best = max((plan for plan in plans if plan.fits), key=_decode, default=None)
    if best is None or (usual.fits and _decode(best) < WORTH_SAYING * _decode(usual)):
        return None
    return Smaller(best.target, best.precision, _decode(best))


def _decode(plan: Plan) -> float:
    """The ceiling before the first token of context."""
    return plan.speeds.decode[0]["tokens_per_s"]
