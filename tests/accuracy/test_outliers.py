"""Checkpoints with planted outliers: the calibrated recipes hold where plain rounding breaks.

`tools/plant_outliers.py` says what is planted. An int8 key/value cache has its own outliers, the keys'; its tests
belong at the end of this file, with `lab.artifact` for artifacts and the kind `keys`.
"""

from __future__ import annotations

import pytest

KINDS = ("norms", "massive", "keys")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", ["w8a8", "w8a8-static"])
def test_a_calibrated_recipe_passes_its_gate(lab, recipe, kind):
    report = lab.report(kind, recipe)
    assert report.passed, report.gate.failures


@pytest.mark.parametrize("kind", ["norms", "massive"])
def test_plain_static_rounding_fails_the_same_gate(lab, kind):
    plain = lab.report(kind, "w8a8-static", plain=True)
    assert not plain.passed
    assert plain.metrics.kl_mean > 10 * lab.report(kind, "w8a8-static").metrics.kl_mean


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", ["w8a8", "w8a8-static"])
def test_outliers_cost_little_beside_the_model_without_them(lab, recipe, kind):
    """The function is the same, so the same text is a fair measure of what the outliers add."""
    assert lab.report(kind, recipe).metrics.kl_mean <= 1.5 * lab.report("tiny", recipe).metrics.kl_mean
