"""Every recipe keeps the tiny trained checkpoint of every architecture within its absolute and its excess gate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.calibration.recipes import find_recipe
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.tiny import tiny_checkpoint
from inference_pio.verify import Report, VerifyOptions, verify

RECIPES = (
    *("fp32", "fp16", "int8", "int4", "int4-exact"),
    *("int8-calibrated", "int4-calibrated", "w8a8", "w8a8-static"),
)
TEXT = {"calibration": "default", "calibration_samples": 64, "calibration_length": 192}
SAMPLES = Path(__file__).parents[2] / "inference_pio/verify/images/samples.jsonl"
POSITIONS, QUESTIONS = 1024, 40


def report(model_type: str, recipe: str, out: Path, calibration_samples: int = 64, **more: object) -> Report:
    calibrated = find_recipe(recipe, "ort-cpu").calibrated
    text = {**TEXT, "calibration_samples": calibration_samples} if calibrated else {}
    checkpoint = tiny_checkpoint(model_type)
    export(checkpoint, out, ExportOptions(precision=recipe, threads=1, **text))  # type: ignore[arg-type]
    return verify(out, checkpoint, VerifyOptions(threads=1, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model_type", ["qwen3_moe", "glm4_moe_lite"])
def test_models_with_experts(model_type, recipe, tmp_path):
    found = report(model_type, recipe, tmp_path / "out", positions=POSITIONS)
    assert found.passed, found.gate.failures
    checks = {check.metric for check in found.gate.checks}
    if recipe != "fp32":
        assert "kl_mean against simulation" in checks
    assert ("max_logit_difference to simulation" in checks) == (recipe in ("fp16", "int4-exact"))


@pytest.mark.parametrize(("base", "experts"), [("fp16", "int8-exact"), ("int4-exact", "int8-exact")])
def test_experts_that_round_weights_alone(base, experts, tmp_path):
    """Eight bits whose activations stay exact; nothing else in the artifact rounds any."""
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"base": base, "overrides": {"*.mlp.experts.*": experts}}))
    found = report("qwen3_moe", str(recipe), tmp_path / "out", positions=POSITIONS)
    manifest = Artifact.open(tmp_path / "out").manifest
    assert not manifest.contract.rounds_activations
    assert manifest.recipe.overrides == {"*.mlp.experts.*": experts}
    assert found.passed, found.gate.failures
    assert "max_logit_difference to simulation" in {check.metric for check in found.gate.checks}


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the bundled questions about drawings."""
    lines = [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()[:QUESTIONS]]
    for line in lines:
        line["images"] = [str(SAMPLES.parent / name) for name in line["images"]]
    file = tmp_path_factory.mktemp("questions") / "data.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return file


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe not in ("fp32", "int4-exact")])
def test_a_model_that_sees_is_judged_on_its_answers(recipe, questions, tmp_path):
    """fp32 is judged on all questions in tests/verify/test_answers.py, and so is here what hardly differs from it."""
    data = None if recipe == "int8-calibrated" else questions
    found = report("qwen3_vl", recipe, tmp_path / "out", calibration_samples=32, data=data)
    assert found.passed, found.gate.failures
    assert "kl_mean against simulation" in {check.metric for check in found.gate.checks}


def test_an_int8_cache_of_images(tmp_path):
    """On all questions: of fewer answers the rounding's own noise fills the room of the excess gate."""
    checkpoint = tiny_checkpoint("qwen3_vl")
    export(checkpoint, tmp_path / "out", ExportOptions(precision="w8a8", kv_cache="int8", threads=1, **TEXT))
    found = verify(tmp_path / "out", checkpoint, VerifyOptions(threads=1))
    assert found.passed and found.excess is not None, found.gate.failures


def test_an_int8_cache_beside_experts(tmp_path):
    checkpoint = tiny_checkpoint("qwen3_moe")
    export(checkpoint, tmp_path / "out", ExportOptions(precision="w8a8", kv_cache="int8", threads=1, **TEXT))
    assert verify(tmp_path / "out", checkpoint, VerifyOptions(threads=1, positions=POSITIONS)).passed
