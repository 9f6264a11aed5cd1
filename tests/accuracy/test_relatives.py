"""Quantized artifacts of qwen2, llama and mistral lose what their rounding loses, and nothing beside it.

The checkpoints are random, so only the excess gate has a meaning: the artifact against its simulation.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.verify import VerifyOptions, verify

sys.path.insert(0, str(Path(__file__).parents[1]))
from shapes import write_shape

FEW = {"calibration": "default", "calibration_samples": 8, "calibration_length": 96, "threads": 1}


@pytest.mark.parametrize(
    ("shape", "recipe", "cache"),
    [
        ("qwen2_windows", "w8a8", "int8"),
        ("llama_biases", "w8a8", "int8"),
        ("llama_biases", "int4-calibrated", "fp32"),
        ("mistral", "w8a8-static", "fp32"),
    ],
)
def test_calibrated_recipes_are_as_good_as_their_simulation(shape: str, recipe: str, cache: str, tmp_path: Path):
    checkpoint = write_shape(shape, tmp_path / "checkpoint")
    artifact = export(checkpoint, tmp_path / "out", ExportOptions(precision=recipe, kv_cache=cache, **FEW))
    report = verify(artifact.path, checkpoint, VerifyOptions(positions=256, window=128, threads=1))
    checks = {check.metric: check for check in report.gate.checks if "simulation" in check.metric}
    assert set(checks) == {"kl_mean against simulation", "kl_mean to simulation"}
    assert all(check.passed for check in checks.values()), [check.failure for check in checks.values()]
