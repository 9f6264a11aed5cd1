"""Exports of models with experts: the manifest, the same bytes from every form of a checkpoint, and refusals."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from inference_pio.calibration.options import CalibrationOptions
from inference_pio.calibration.pipeline import calibrate
from inference_pio.calibration.recipes import RECIPES
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.graphs import weights
from inference_pio.graphs.architectures import read_decoder
from inference_pio.graphs.rounding import dequantize_blocks
from inference_pio.verify.simulation import ArtifactWeights

sys.path.insert(0, str(Path(__file__).parents[1]))
from artifact_cases import snapshot
from shapes import write_shape

Tensors = dict[str, np.ndarray]
EXPERT = "model.layers.1.mlp.experts.4.up_proj.weight"
ROUTER = "model.layers.2.mlp.gate.weight"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shape("moe", tmp_path_factory.mktemp("moe") / "checkpoint")


@pytest.fixture
def changed(sound: Path, tmp_path: Path) -> Callable[[Callable[[Tensors], object]], Path]:
    def make(edit: Callable[[Tensors], object]) -> Path:
        path = Path(shutil.copytree(sound, tmp_path / "changed"))
        tensors = load_file(path / "model.safetensors")
        edit(tensors)
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        return path

    return make


def fuse(tensors: Tensors) -> None:
    """Experts in the two tensors per layer that transformers 5 has in memory."""
    for layer in range(3):
        prefix = f"model.layers.{layer}.mlp.experts"
        parts = {
            kind: np.stack([tensors.pop(f"{prefix}.{n}.{kind}_proj.weight") for n in range(6)])
            for kind in ("gate", "up", "down")
        }
        tensors[f"{prefix}.gate_up_proj"] = np.concatenate([parts["gate"], parts["up"]], axis=1)
        tensors[f"{prefix}.down_proj"] = parts["down"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_fused_and_single_experts_give_the_same_artifact(sound, changed, tmp_path, precision):
    one = export(sound, tmp_path / "one", ExportOptions(precision=precision)).manifest
    fused = changed(fuse)
    assert not any(".experts.0." in name for name in load_file(fused / "model.safetensors"))
    other = export(fused, tmp_path / "other", ExportOptions(precision=precision)).manifest
    assert one.fingerprint == other.fingerprint
    assert one.model == other.model


@pytest.mark.parametrize("precision", ["fp16", "int4"])
def test_chunks_and_threads_change_no_byte(sound, tmp_path, monkeypatch, precision):
    for name, threads, chunk in (("a", 1, 1 << 21), ("b", 2, 1000), ("c", 3, 97)):
        monkeypatch.setattr(weights, "CHUNK_ELEMENTS", chunk)
        export(sound, tmp_path / name, ExportOptions(precision=precision, threads=threads))
    first, *others = (snapshot(tmp_path / name) for name in "abc")
    for other in others:
        assert other["model.onnx.data"] == first["model.onnx.data"]
        assert other["model.onnx"] == first["model.onnx"]


@pytest.mark.parametrize(
    ("precision", "operator", "rounds"),
    [("fp32", "MoE", False), ("fp16", "MoE", False), ("int8", "QMoE", True), ("int4", "QMoE", True)],
)
def test_the_manifest(sound, tmp_path, precision, operator, rounds):
    manifest = export(sound, tmp_path / "out", ExportOptions(precision=precision)).manifest
    assert manifest.requires.operators[f"com.microsoft::{operator}"] == 3
    assert not any(name.startswith("inference_pio::") for name in manifest.requires.operators)
    assert manifest.contract.rounds_activations == rounds
    assert manifest.recipe.weights["experts"] == precision
    tensors = load_file(sound / "model.safetensors")
    assert manifest.model.parameters == sum(array.size for array in tensors.values())
    assert manifest.model.model_type == "qwen3_moe"
    assert "genai_config.json" not in manifest.files


def test_experts_that_round_alone_are_told(sound, tmp_path):
    """Only the experts are quantized, so only their operator can round."""
    recipe = tmp_path / "experts.json"
    recipe.write_text(json.dumps({"base": "fp32", "overrides": {"*.experts.*": "int4"}}))
    manifest = export(sound, tmp_path / "out", ExportOptions(precision=str(recipe))).manifest
    assert manifest.contract.rounds_activations
    assert "com.microsoft::MatMulNBits" not in manifest.requires.operators


def test_experts_of_w8a8_have_blocks(sound):
    with Checkpoint.open(sound) as checkpoint:
        spec = read_decoder(checkpoint, (), None)[1]
    for name in ("w8a8", "w8a8-static"):
        assert RECIPES[name].formats(spec) == {"layers": name, "edges": "int8", "experts": "int8"}


def test_a_router_is_rounded_only_by_name(sound, tmp_path):
    recipe = tmp_path / "router.json"
    recipe.write_text(json.dumps({"base": "int8", "overrides": {"*.mlp.gate.weight": "int8"}}))
    plain = export(sound, tmp_path / "plain").manifest.requires.operators
    named = export(sound, tmp_path / "named", ExportOptions(precision=str(recipe))).manifest.requires.operators
    assert plain["com.microsoft::FusedMatMul"] == 3 + 2  # both products of the first attention are float16
    assert named["com.microsoft::FusedMatMul"] == 2


def test_one_layer_of_experts(sound, tmp_path):
    manifest = export(sound, tmp_path / "out", ExportOptions(layers=1)).manifest
    assert manifest.requires.operators["com.microsoft::QMoE"] == 1


@pytest.mark.parametrize("name", [EXPERT, ROUTER])
def test_a_missing_tensor_is_named(changed, tmp_path, name):
    with pytest.raises(BadInputError, match=f"lacks '{name}'"):
        export(changed(lambda tensors: tensors.pop(name)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [EXPERT, ROUTER, EXPERT.replace("up_proj", "down_proj")])
def test_numbers_that_are_none(changed, tmp_path, precision, value, name):
    def damage(tensors: Tensors) -> None:
        tensors[name][3, 5] = value

    with pytest.raises(BadInputError, match=f"tensor '{name}' holds NaN or infinite values"):
        export(changed(damage), tmp_path / "out", ExportOptions(precision=precision))


def test_half_precision_that_is_too_small_for_an_expert(changed, tmp_path):
    path = changed(lambda tensors: tensors[EXPERT].fill(7e4))
    with pytest.raises(
        BadInputError, match=r"experts\.4\.gate_proj.* \+ .*experts\.4\.up_proj.* beyond the range"
    ) as e:
        export(path, tmp_path / "out", ExportOptions(precision="fp16"))
    assert len(str(e.value)) < 1000


def test_mixed_widths_are_refused_before_anything_is_written(sound, tmp_path):
    recipe = tmp_path / "mixed.json"
    recipe.write_text(json.dumps({"base": "int4", "overrides": {EXPERT: "int8"}}))
    with pytest.raises(BadInputError, match=r"one operator holds all experts of a layer: give '.*layers\.1.*\*'"):
        export(sound, tmp_path / "out", ExportOptions(precision=str(recipe)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("precision", "bits"), [("int4-calibrated", 4), ("w8a8", 8)])
def test_the_codes_of_a_calibration_are_those_of_the_artifact(sound, tmp_path, precision, bits):
    options = CalibrationOptions(precision=precision, text=Path(__file__), samples=4, length=32, threads=1)
    calibrate(sound, tmp_path / "calibration", options).close()
    export(sound, tmp_path / "out", ExportOptions(precision=precision, calibration=tmp_path / "calibration"))
    stored = ArtifactWeights(tmp_path / "out" / "model.onnx")
    arrays: dict[str, np.ndarray] = {}
    for file in (tmp_path / "calibration" / "layers").iterdir():
        arrays |= load_file(file)
    experts = [name.removesuffix(".codes") for name in arrays if ".experts." in name and name.endswith(".codes")]
    assert len(experts) == sum(1 for name in Checkpoint.open(sound).tensors if ".experts." in name)
    for name in experts:
        rows, columns = stored.shape(name)
        expected = dequantize_blocks(arrays[f"{name}.codes"], arrays[f"{name}.scales"], bits, columns)
        np.testing.assert_array_equal(stored.rows(name, 0, rows), expected)
