"""What stands in an artifact that is cut into blocks, and combinations that are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.runtime.backends.token_table import TokenTable

sys.path.insert(0, str(Path(__file__).parents[1]))
from block_cases import FEW, TRT85, export_blocks


@pytest.fixture(params=["fp32", "w8a8-static"])
def exported(request, block_artifact) -> Artifact:
    return Artifact.open(block_artifact(request.param))


def test_the_manifest_lists_what_is_there(exported):
    manifest = exported.manifest
    assert (manifest.target_key, manifest.hardware) == ("tensorrt/trt85", "sm61")
    assert [(graph.role, graph.layers) for graph in manifest.graphs] == [
        ("block", [0, 1, 2]),
        ("block", [3, 4]),
        ("head", []),
    ]
    data = [name for name in manifest.files if name.endswith(".data")]
    assert manifest.memory.weight_bytes == sum(manifest.files[name].size for name in data)
    assert "genai_config.json" not in manifest.files
    rounds = manifest.recipe.name != "fp32"
    assert manifest.contract.rounds_activations == rounds
    assert set(manifest.recipe.weights.values()) == {manifest.recipe.name}  # token table and head as well


def test_the_files_are_what_the_parser_of_tensorrt_8_5_reads(exported):
    for graph in exported.manifest.graphs:
        model = onnx.load(exported.file(graph.file), load_external_data=False)
        onnx.checker.check_model(str(exported.file(graph.file)), full_check=True)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
        values = [*model.graph.input, *model.graph.output]
        assert {value.type.tensor_type.elem_type for value in values} == {onnx.TensorProto.FLOAT}


def test_a_tied_table_is_stored_once_and_is_the_checkpoints(exported, tiny):
    manifest = exported.manifest
    assert manifest.table is not None
    assert (manifest.table.tensor, manifest.table.file) == ("model.embed_tokens.weight", "head.onnx.data")
    with Checkpoint.open(tiny) as checkpoint:
        exact = checkpoint.tensor("model.embed_tokens.weight")
    found = TokenTable(exported.path, manifest).rows(np.arange(len(exact)))
    error = np.abs(found - exact).max(axis=1)
    assert (error <= (0 if manifest.recipe.name == "fp32" else np.abs(exact).max(axis=1) / 127 * 0.51)).all()


def test_float16_halves_weights_and_cache(block_artifact, tiny):
    wide, half = (Artifact.open(block_artifact(precision, "sm86")) for precision in ("fp32", "fp16"))
    assert (wide.manifest.cache.dtype, half.manifest.cache.dtype) == ("float32", "float16")
    assert half.manifest.memory.cache_bytes_per_token * 2 == wide.manifest.memory.cache_bytes_per_token
    assert half.manifest.memory.weight_bytes < 0.51 * wide.manifest.memory.weight_bytes
    assert half.manifest.table.dtype == "float16" and half.manifest.table.file == "head.onnx.data"
    with Checkpoint.open(tiny) as checkpoint:
        exact = checkpoint.tensor("model.embed_tokens.weight")
    found = TokenTable(half.path, half.manifest).rows(np.arange(len(exact)))
    assert np.array_equal(found, exact.astype(np.float16).astype(np.float32))
    graph = half.manifest.graphs[0]
    kinds = {value.name.split(".")[0]: value.dtype for value in (*graph.inputs, *graph.outputs)}
    assert {name for name, kind in kinds.items() if kind == "float16"} == {
        "past_key_values",
        "attention_bias",
        "present",
    }


def test_an_int8_artifact_is_hardly_larger_than_its_integers(block_artifact):
    manifest = Artifact.open(block_artifact("w8a8-static")).manifest
    # A tiny layer has many scales and exact columns beside its integers; docs/tensorrt.md has real shapes.
    assert manifest.parameters < manifest.memory.weight_bytes < 1.25 * manifest.parameters


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "recipe int8 does not run on target tensorrt/trt85: use fp32, w8a8-static"),
        ({"precision": "fp16"}, "recipe fp16 does not run on target tensorrt/trt85"),
        (
            {"precision": "bf16", "hardware": "sm86"},
            "recipe bf16 does not run on target tensorrt/modern: use fp32, fp16",
        ),
        (
            {"precision": "fp16", "hardware": "sm86", "kv_cache": "fp32"},
            "--kv-cache fp32 is not available on tensorrt/modern with --precision fp16: use fp16",
        ),
        ({"precision": "w8a8-static"}, "recipe w8a8-static needs text"),
        (
            {"precision": "fp32", "kv_cache": "int8", **FEW},
            "--kv-cache int8 is not available on tensorrt/trt85",
        ),
        ({"precision": "fp32", "hardware": "cpu"}, "target tensorrt does not run on cpu"),
        ({"precision": "fp32", "block_layers": 6}, "--block-layers 6 is outside 1 to 5"),
    ],
)
def test_what_cannot_work_is_refused(tiny, tmp_path, options, message):
    with pytest.raises(BadInputError, match=message):
        export(tiny, tmp_path / "out", ExportOptions(**{**TRT85, **options}))
    assert not (tmp_path / "out").exists()


def test_a_calibration_of_more_layers_has_no_step_for_the_head(tiny, tmp_path):
    from inference_pio.calibration.options import CalibrationOptions
    from inference_pio.calibration.pipeline import calibrate

    options = CalibrationOptions(
        precision="w8a8-static", target="tensorrt", hardware="sm61", samples=1, length=32, layers=2
    )
    calibrate(tiny, tmp_path / "calibration", options).close()
    with pytest.raises(BadInputError, match="no activation scale for the head behind 1 layers"):
        export_blocks(tiny, tmp_path / "out", "w8a8-static", layers=1, calibration=tmp_path / "calibration")
