"""What is exported for a runtime is accepted by its linter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from inference_pio.cli.main import run

sys.path.insert(0, str(Path(__file__).parents[2]))
from block_cases import export_blocks
from shapes import write_shape


@pytest.mark.parametrize("precision", ["fp32", "w8a8-static"])
def test_blocks_for_tensorrt_8_5(block_artifact, precision):
    assert run(["inspect", "--lint", "trt85", str(block_artifact(precision))]) == 0


@pytest.mark.parametrize("shape", ["moe", "glm"])
def test_blocks_of_hybrids_without_their_experts(shape, tmp_path):
    out = export_blocks(write_shape(shape, tmp_path / "checkpoint"), tmp_path / "out")
    assert list(out.glob("experts-*.onnx"))
    assert run(["inspect", "--lint", "trt85", str(out)]) == 0


@pytest.mark.parametrize(("hardware", "dialect"), [("sm61", "trt85"), ("sm86", "modern")])
def test_models_that_see(vision_checkpoint, tmp_path, hardware, dialect, capsys):
    out = export_blocks(vision_checkpoint, tmp_path / "out", hardware=hardware)
    assert run(["inspect", "--lint", dialect, str(out)]) == 0
    assert "vision.onnx: accepted" in capsys.readouterr().out
