"""Every calibrated recipe keeps the model within its gate, and beats plain rounding at the same bits.

Judged on the bundled held-out text, which no calibration has seen. Plain rounding is the same artifact with every step
of the calibration off: to nearest, by the largest magnitude, per token or with min-max steps.
"""

from __future__ import annotations

import pytest

CALIBRATED = ("int8-calibrated", "int4-calibrated", "w8a8", "w8a8-static")


@pytest.mark.parametrize("recipe", CALIBRATED)
def test_a_calibrated_recipe_passes_its_gate_and_is_as_good_as_its_simulation(lab, recipe):
    report = lab.report("tiny", recipe)
    assert report.passed, report.gate.failures
    asked = {check.metric for check in report.gate.checks}
    assert {"kl_mean", "top1_agreement_clear", "perplexity_ratio"} <= asked
    assert {"kl_mean against simulation", "kl_mean to simulation"} <= asked


def test_int4_loses_at_most_six_tenths_of_what_rounding_to_nearest_loses(lab):
    nearest, calibrated = kl(lab, "int4", plain=True), kl(lab, "int4-calibrated")
    assert calibrated <= 0.6 * nearest


def test_static_steps_lose_at_most_half_of_what_min_max_steps_lose(lab):
    assert kl(lab, "w8a8-static") <= 0.5 * kl(lab, "w8a8-static", plain=True)


def test_per_token_products_are_no_worse_than_plain_rounding_per_token(lab):
    """Little is left to win where every token has its own range; on outliers it is another matter."""
    assert kl(lab, "w8a8") <= 1.1 * kl(lab, "w8a8", plain=True)


def test_int8_weights_are_no_worse_than_rounding_to_nearest(lab):
    assert kl(lab, "int8-calibrated") <= 1.1 * kl(lab, "int8", plain=True)


def test_the_recipes_stand_in_the_order_of_their_bits(lab):
    found = [kl(lab, recipe) for recipe in ("int8-calibrated", "w8a8", "w8a8-static", "int4-calibrated")]
    assert found == sorted(found)


def kl(lab, recipe: str, plain: bool = False) -> float:
    return lab.report("tiny", recipe, plain).metrics.kl_mean
