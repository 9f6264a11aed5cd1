"""NVIDIA's own parser and compiler take the graphs of an artifact, and refuse what the linter must refuse; no GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
from check_tensorrt_rtx import judge, judge_file, main
from onnx import TensorProto, helper

from inference_pio.artifact.bundle import Artifact
from inference_pio.build.options import BuildOptions
from inference_pio.graphs.lint import find_dialect
from inference_pio.graphs.lint.linter import lint

sys.path.insert(0, str(Path(__file__).parents[1]))
from block_cases import LEAST, export_blocks
from modern_cases import CASES
from shapes import write_shape
from vision_cases import write_vision_shape

pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu12")


def built(checkpoint: Path, out: Path, precision: str, hardware: str = "sm86", **more):
    """What becomes of every graph of an export."""
    export_blocks(checkpoint, out, precision, hardware=hardware, **more)
    found = list(judge(Artifact.open(out), BuildOptions(max_context=256)))
    assert [each.refusal for each in found] == [""] * len(found)
    assert all(each.size > 0 for each in found)
    return [each.graph for each in found]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_blocks_of_grouped_attention(precision, tmp_path):
    checkpoint = write_shape("odd_heads", tmp_path / "checkpoint")
    assert built(checkpoint, tmp_path / "out", precision, layers=1) == ["block-00.onnx", "head.onnx"]


def test_windows_and_latents(tmp_path):
    windows = write_shape("window_one_kv_head", tmp_path / "windows")
    built(windows, tmp_path / "out", "fp16", layers=1)
    latents = write_shape("glm", tmp_path / "glm")
    built(latents, tmp_path / "latents", "fp16", layers=1)


@pytest.mark.parametrize("hardware", ["sm86", "sm61"])
def test_static_int8(hardware, tmp_path):
    """Blocks for TensorRT 8.5 as well: a newer compiler than theirs, but the same rules of explicit quantization."""
    checkpoint = write_shape("glm", tmp_path / "checkpoint")
    built(checkpoint, tmp_path / "out", "w8a8-static", hardware, layers=1, **LEAST)


def test_a_vision_tower(tmp_path):
    checkpoint = write_vision_shape("plain", tmp_path / "checkpoint")
    assert "vision.onnx" in built(checkpoint, tmp_path / "out", "fp16", layers=1)


def test_what_the_linter_lets_pass_is_parsed(tmp_path):
    """And a graph that the parser refuses is refused by the linter, whose rules are those of an older version."""
    for rule, (good, bad) in CASES.items():
        for name, model in (("good", good), ("bad", bad)):
            file = tmp_path / f"{rule}-{name}.onnx"
            onnx.save(model, file)
            accepted = lint(file, find_dialect("modern")).accepted
            parsed = not judge_file(file, []).refusal
            assert accepted == (name == "good") and (parsed or not accepted), file.name


def test_a_cache_that_grows_is_refused(tmp_path, capsys):
    shapes = {"c": [1, 1, None, 4], "u": [1, 1, 2, 4], "y": [1, 1, None, 4]}
    c, u, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    write = helper.make_tensor_value_info("i", TensorProto.INT64, [1])
    node = helper.make_node("TensorScatter", ["c", "u", "i"], ["y"], axis=-2)
    model = helper.make_model(helper.make_graph([node], "g", [c, u, write], [y]), ir_version=12)
    model.opset_import[0].version = 24
    onnx.save(model, tmp_path / "grows.onnx")
    assert "static sequence length" in judge_file(tmp_path / "grows.onnx", []).refusal
    assert main([str(tmp_path)]) == 2
    assert "manifest" in capsys.readouterr().err


def test_an_artifact_without_engines_is_no_success(tiny_artifact, capsys):
    assert main([str(tiny_artifact("int8"))]) == 2
    assert "was exported for ort-cpu: export it with --target tensorrt" in capsys.readouterr().err
