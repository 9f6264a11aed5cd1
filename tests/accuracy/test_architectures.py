"""Every recipe keeps the tiny trained checkpoint of every architecture within its absolute and its excess gate."""

from __future__ import annotations

import json
import shutil
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
LITTLE_TEXT = {**TEXT, "calibration_samples": 24}
"""Enough where there are no experts, to each of which a router sends a part."""
IMAGES = Path(__file__).parents[2] / "inference_pio/verify/images"
SAMPLES = 40
"""Of the bundled 120 with images: about 540 answer positions. `tests/verify/test_answers.py` takes all of them."""
POSITIONS = 1024


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first bundled samples with images, in a folder of their own."""
    folder = tmp_path_factory.mktemp("samples")
    lines = (IMAGES / "samples.jsonl").read_text(encoding="utf-8").splitlines()[:SAMPLES]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.copytree(IMAGES / "png", folder / "png")
    return folder / "samples.jsonl"


def report(model_type: str, recipe: str, out: Path, **more: object) -> Report:
    text = LITTLE_TEXT if model_type == "qwen3_vl" else TEXT
    text = text if find_recipe(recipe, "ort-cpu").calibrated else {}
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


@pytest.mark.parametrize("recipe", [r for r in RECIPES if r not in ("fp32", "int8", "int4-exact")])
def test_a_model_that_sees_is_judged_on_its_answers(recipe, samples, tmp_path):
    found = report("qwen3_vl", recipe, tmp_path / "out", data=samples)
    assert found.passed, found.gate.failures


def test_an_int8_cache_beside_experts(tmp_path):
    checkpoint = tiny_checkpoint("qwen3_moe")
    export(checkpoint, tmp_path / "out", ExportOptions(precision="w8a8", kv_cache="int8", threads=1, **TEXT))
    assert verify(tmp_path / "out", checkpoint, VerifyOptions(threads=1, positions=POSITIONS)).passed
