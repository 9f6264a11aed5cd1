"""One layer of experts over random weights in memory, canonical and lowered, and sessions to run it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from inference_pio.graphs.blocks.moe import moe
from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites import expert_kernels
from inference_pio.graphs.rewrites.rewrite import RewriteReport, apply_rewrite, drop_unused_functions, prune
from inference_pio.graphs.rounding import dequantize_blocks, round_blocks
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec, ExpertsSpec, Scoring

sys.path.insert(0, str(Path(__file__).parent))
from graph_cases import SPEC, FakeCheckpoint, Formats, context

HIDDEN = 32
PREFIX = "model.layers.0.mlp"


def experts_spec(**changes: Any) -> DecoderSpec:
    """A decoder of one sparse layer: by default 5 experts, 2 of them per token, routed as Qwen3-MoE does."""
    experts = ExpertsSpec(count=5, active=2, width=48, scoring=Scoring.SOFTMAX, normalize=True)
    return replace(SPEC, windows=(None,), sparse=(True,), moe=replace(experts, **changes))


def arrays_of(spec: DecoderSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights of the layer."""
    experts, rng = spec.moe, np.random.default_rng(seed)
    assert experts is not None
    shapes: dict[str, tuple[int, ...]] = {f"{PREFIX}.gate.weight": (experts.count, HIDDEN)}
    if experts.scoring is Scoring.SIGMOID:
        shapes[f"{PREFIX}.gate.e_score_correction_bias"] = (experts.count,)
    blocks = {f"{PREFIX}.experts.{n}": experts.width for n in range(experts.count)}
    if experts.shared_width:
        blocks[f"{PREFIX}.shared_experts"] = experts.shared_width
    for name, width in blocks.items():
        shapes[f"{name}.gate_proj.weight"] = shapes[f"{name}.up_proj.weight"] = (width, HIDDEN)
        shapes[f"{name}.down_proj.weight"] = (HIDDEN, width)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def build(spec: DecoderSpec, arrays: dict[str, np.ndarray]) -> ir.Model:
    """x float32 [B, S, C] -> y [B, S, C]; the experts read what another node made, and another reads their result."""
    b = GraphBuilder()
    x_BSC = b.input("x", ir.DataType.FLOAT, ["batch", "sequence", HIDDEN])
    moved_BSC = b.op("Add", [x_BSC, b.const(0.1, np.float32)])
    with b.scope("layers.0/mlp"):
        y_BSC = moe(b, WeightSource(FakeCheckpoint(arrays)), spec, moved_BSC, PREFIX, 0)  # type: ignore[arg-type]
    b.output(b.op("Add", [x_BSC, y_BSC]), "y", ir.DataType.FLOAT, ["batch", "sequence", HIDDEN])
    return b.model()


def lower(model: ir.Model, spec: DecoderSpec, formats: Formats) -> RewriteReport:
    report = apply_rewrite(expert_kernels, model.graph, context(spec, formats), False)
    prune(model.graph)
    drop_unused_functions(model)
    return report


def run(model: ir.Model, x: np.ndarray, threads: int = 1) -> np.ndarray:
    """The layer's output, without its input, which the graph adds."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return session.run(["y"], {"x": x})[0] - x


def some_tokens(rows: int = 2, length: int = 9) -> np.ndarray:
    return np.random.default_rng(3).normal(0, 1, (rows, length, HIDDEN)).astype(np.float32)


def dequantized(rows_NK: np.ndarray, bits: int, block: int) -> np.ndarray:
    """The weight that its integers and scales stand for."""
    data, scales = round_blocks(rows_NK, bits, block, clip=bits == 4)
    return dequantize_blocks(data, scales, bits, rows_NK.shape[1]).copy()
