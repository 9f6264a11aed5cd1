"""Every recipe keeps the tiny trained checkpoint of every architecture within its absolute and its excess gate."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.tiny import tiny_checkpoint
from inference_pio.verify import Report, VerifyOptions, verify

RECIPES = ("fp32", "fp16", "int8", "int4", "int8-calibrated", "int4-calibrated", "w8a8", "w8a8-static")
TEXT = {"calibration": "default", "calibration_samples": 64, "calibration_length": 192}
SAMPLES = Path(__file__).parents[2] / "inference_pio/verify/images/samples.jsonl"
POSITIONS = 1024
TOO_COARSE = {("qwen3_moe", "int4"): ["kl_mean"]}
"""Gates that are missed: nearest 4 bits are too coarse for experts 48 channels wide, in blocks of any size."""


def report(model_type: str, recipe: str, out: Path, **more: object) -> Report:
    text = TEXT if "-" in recipe or recipe == "w8a8" else {}
    checkpoint = tiny_checkpoint(model_type)
    export(checkpoint, out, ExportOptions(precision=recipe, threads=1, **text))  # type: ignore[arg-type]
    return verify(out, checkpoint, VerifyOptions(threads=1, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model_type", ["qwen3_moe", "glm4_moe_lite"])
def test_models_with_experts(model_type, recipe, tmp_path):
    found = report(model_type, recipe, tmp_path / "out", positions=POSITIONS)
    failures = [check.metric for check in found.gate.checks if not check.passed]
    assert failures == TOO_COARSE.get((model_type, recipe), []), found.gate.failures
    if recipe != "fp32":
        assert "kl_mean against simulation" in {check.metric for check in found.gate.checks}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_model_that_sees_is_judged_on_its_answers(recipe, tmp_path):
    found = report("qwen3_vl", recipe, tmp_path / "out", data=SAMPLES)
    assert found.passed, found.gate.failures


def test_an_int8_cache_beside_experts(tmp_path):
    checkpoint = tiny_checkpoint("qwen3_moe")
    export(checkpoint, tmp_path / "out", ExportOptions(precision="w8a8", kv_cache="int8", threads=1, **TEXT))
    assert verify(tmp_path / "out", checkpoint, VerifyOptions(threads=1, positions=POSITIONS)).passed
