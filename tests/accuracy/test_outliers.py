"""Checkpoints with planted outliers: the calibrated recipes hold where plain rounding breaks.

`tools/plant_outliers.py` says what is planted. Keys are no input of a linear layer: their outliers meet the int8 cache.
"""

from __future__ import annotations

import numpy as np
import pytest

from inference_pio.calibration.result import Calibration
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.graphs.kv_scales import KvScales
from inference_pio.verify import VerifyOptions, verify

KINDS = ("norms", "massive", "keys")
INPUTS = ("norms", "massive")
"""The kinds that linear layers meet."""


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("recipe", ["w8a8", "w8a8-static"])
def test_a_calibrated_recipe_passes_its_gate(lab, recipe, kind):
    report = lab.report(kind, recipe)
    assert report.passed, report.gate.failures


@pytest.mark.parametrize("kind", INPUTS)
def test_plain_static_rounding_fails_the_same_gate(lab, kind):
    plain = lab.report(kind, "w8a8-static", plain=True)
    assert not plain.passed
    assert plain.metrics.kl_mean > 10 * lab.report(kind, "w8a8-static").metrics.kl_mean


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("recipe", ["w8a8", "w8a8-static"])
def test_outliers_cost_little_beside_the_model_without_them(lab, recipe, kind):
    """The function is the same, so the same text is a fair measure of what the outliers add."""
    assert lab.report(kind, recipe).metrics.kl_mean <= 1.5 * lab.report("tiny", recipe).metrics.kl_mean


@pytest.mark.parametrize("kind", ["tiny", *KINDS])
def test_integer_products_with_an_int8_cache(lab, tmp_path, kind):
    report = with_int8_cache(lab, tmp_path, kind, "w8a8", simulation=True)
    assert report.passed, report.gate.failures
    assert report.gate.name == "w8a8+int8-cache" and report.metrics.kl_mean <= 1.5e-2


def test_one_step_for_all_keys_would_not_do(lab, tmp_path, monkeypatch):
    """What plain static rounding of the cache, one step per tensor, makes of the planted keys."""
    good = with_int8_cache(lab, tmp_path / "channels", "keys", "fp32")
    per_channel = Calibration.kv_scales

    def per_tensor(calibration, layers):
        found = per_channel(calibration, layers)
        return {n: KvScales(np.full_like(s.key, s.key.max()), s.value) for n, s in found.items()}

    monkeypatch.setattr(Calibration, "kv_scales", per_tensor)
    bad = with_int8_cache(lab, tmp_path / "tensor", "keys", "fp32")
    assert bad.metrics.kl_mean > 10 * good.metrics.kl_mean


def with_int8_cache(lab, folder, kind, precision, simulation=False):
    """The verification of an artifact whose cache is int8."""
    few = {"calibration": "default", "calibration_samples": 32, "calibration_length": 192, "threads": lab.threads}
    checkpoint = lab.checkpoint(kind)
    folder.mkdir(exist_ok=True)
    export(checkpoint, folder / "out", ExportOptions(precision=precision, kv_cache="int8", **few))
    return verify(folder / "out", checkpoint, VerifyOptions(positions=512, simulation=simulation, threads=lab.threads))
