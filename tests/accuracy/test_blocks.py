"""Artifacts for TensorRT 8.5, dense and hybrid, keep their gates when their blocks run on ONNX Runtime."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.tiny import tiny_checkpoint
from inference_pio.verify import VerifyOptions, verify

sys.path.insert(0, str(Path(__file__).parents[1]))
from block_cases import FEW, export_blocks, open_chain

IMAGES = Path(__file__).parents[2] / "inference_pio/verify/images"


def some_questions(folder: Path) -> Path:
    """A third of the bundled questions about images."""
    lines = (IMAGES / "samples.jsonl").read_text().splitlines()[:40]
    file = folder / "samples.jsonl"
    file.write_text("\n".join(lines).replace('"png/', f'"{IMAGES}/png/'))
    return file


@pytest.mark.parametrize("model_type", ["qwen3", "qwen3_moe", "glm4_moe_lite", "qwen3_vl"])
def test_static_int8_keeps_its_gates(model_type, block_artifact, tmp_path):
    checkpoint = tiny_checkpoint(model_type)
    sees = model_type == "qwen3_vl"
    if model_type == "qwen3":
        out = block_artifact("w8a8-static")
    else:
        out = export_blocks(checkpoint, tmp_path / "out", "auto", **FEW)
    data = some_questions(tmp_path) if sees else None
    options = VerifyOptions(backend="chain", threads=1, positions=256, data=data)
    found = verify(out, checkpoint, options)
    assert found.passed, found.gate.failures
    checks = {check.metric for check in found.gate.checks}
    assert sees or {"kl_mean against simulation", "kl_mean to simulation"} <= checks
    with open_chain(out) as engine:
        assert len(engine.generate("def f(").token_ids) > 0
    _is_explicitly_quantized(Artifact.open(out))


def _is_explicitly_quantized(artifact: Artifact) -> None:
    """Products of blocks and head take both inputs from DequantizeLinear, or none; the large weights are int8."""
    for graph in artifact.manifest.graphs:
        if graph.role not in ("block", "head"):
            continue
        model = onnx.load(artifact.file(graph.file), load_external_data=False).graph
        made = {name: node.op_type for node in model.node for name in node.output}
        products = [node for node in model.node if node.op_type in ("MatMul", "Conv")]
        sides = [{made.get(name) for name in node.input} for node in products]
        assert all("DequantizeLinear" not in side or side == {"DequantizeLinear"} for side in sides)
        quantized = sum(side == {"DequantizeLinear"} for side in sides)
        assert quantized == sum(i.name.endswith((".columns", ".kernel")) for i in model.initializer)
        assert all(
            i.data_type == onnx.TensorProto.INT8 for i in model.initializer if "kv_b_proj" in i.name and i.dims[1:]
        )
        assert quantized > 0
