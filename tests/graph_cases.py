"""A small decoder over random weights in memory, for tests of graphs: built, rewritten and run without any file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from inference_pio.checkpoint.safetensors_header import TensorInfo
from inference_pio.graphs.architectures import qwen3
from inference_pio.graphs.blocks.rope import RopeSpec, default_frequencies
from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.formats import FP32, WeightFormat
from inference_pio.graphs.rewrites.rewrite import LoweringContext, RewriteReport, apply_rewrite, prune
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.graphs.weights import Rows

Formats = WeightFormat | Callable[[str], WeightFormat]


def rope_of(dim: int) -> RopeSpec:
    return RopeSpec(dim, tuple(float(f) for f in default_frequencies(dim, 10_000.0)))


SPEC = DecoderSpec(
    model_type="qwen3",
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    heads=4,
    kv_heads=2,
    head_dim=16,
    norm_epsilon=1e-6,
    rope=rope_of(16),
    windows=(None, None),
    context_length=64,
    tied_embeddings=True,
    qk_norm=True,
    qkv_bias=False,
    output_bias=False,
)


class FakeCheckpoint:
    """Tensors in memory behind the two members that a WeightSource reads."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.tensors = {
            name: TensorInfo(name, "F32", array.shape, Path("memory.safetensors"), 0, array.nbytes)
            for name, array in arrays.items()
        }

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return self.arrays[name][start:stop]


def arrays_of(spec: DecoderSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights for every tensor that `spec` implies."""
    hidden, inner, dim = spec.hidden_size, spec.intermediate_size, spec.head_dim
    q, kv = spec.heads * dim, spec.kv_heads * dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (spec.vocab_size, hidden)}
    for layer in range(spec.layers):
        linears = {
            "self_attn.q_proj": ((q, hidden), spec.qkv_bias),
            "self_attn.k_proj": ((kv, hidden), spec.qkv_bias),
            "self_attn.v_proj": ((kv, hidden), spec.qkv_bias),
            "self_attn.o_proj": ((hidden, q), spec.output_bias),
            "mlp.gate_proj": ((inner, hidden), spec.mlp_bias),
            "mlp.up_proj": ((inner, hidden), spec.mlp_bias),
            "mlp.down_proj": ((hidden, inner), spec.mlp_bias),
        }
        for name, (shape, bias) in linears.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
            if bias:
                shapes[f"model.layers.{layer}.{name}.bias"] = shape[:1]
        norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
        if spec.qk_norm:
            norms |= {"self_attn.q_norm": dim, "self_attn.k_norm": dim}
        for name, size in norms.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = (size,)
    shapes["model.norm.weight"] = (hidden,)
    if not spec.tied_embeddings:
        shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(1, 0.1, shape) if "norm" in name else rng.normal(0, 0.2, shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def spec_with(**changes: Any) -> DecoderSpec:
    """The small decoder with some fields changed; the rotary embedding follows the head size."""
    if "head_dim" in changes:
        changes.setdefault("rope", rope_of(changes["head_dim"]))
    return replace(SPEC, **changes)


def canonical(spec: DecoderSpec = SPEC, seed: int = 0) -> ir.Model:
    """The canonical graph over random weights."""
    return qwen3.build(spec, WeightSource(FakeCheckpoint(arrays_of(spec, seed))))  # type: ignore[arg-type]


def context(spec: DecoderSpec = SPEC, formats: Formats = FP32) -> LoweringContext:
    """A context in which every tensor has one format, or the one that a function says."""
    chosen = formats if callable(formats) else lambda _: formats
    return LoweringContext(spec, chosen, spec.context_length)


def apply(
    model: ir.Model,
    *modules: Any,
    spec: DecoderSpec = SPEC,
    formats: Formats = FP32,
    required: bool = False,
) -> RewriteReport:
    """Apply rewrites in turn, as a target does; the report of the last one."""
    for module in modules:
        report = apply_rewrite(module, model.graph, context(spec, formats), required)
        prune(model.graph)
    return report


def count(model: ir.Model, op_type: str) -> int:
    return sum(node.op_type == op_type for node in model.graph)


def first(model: ir.Model, op_type: str) -> ir.Node:
    return next(node for node in model.graph if node.op_type == op_type)


def set_attribute(node: ir.Node, name: str, value: object) -> None:
    node.attributes[name] = ir.convenience.convert_attribute(name, value)


def logits(model: ir.Model, folder: Path, ids: np.ndarray, spec: DecoderSpec = SPEC, **more: np.ndarray) -> np.ndarray:
    """Logits [B, S, V] of right-padding-free `ids` [B, S] from an empty cache, on ONNX Runtime."""
    path = folder / "model.onnx"
    ir.save(model, path)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rows, length = ids.shape
    empty = np.zeros((rows, spec.kv_heads, 0, spec.head_dim), np.float32)
    feeds = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.tile(np.arange(length), (rows, 1)),
        **{f"past_key_values.{n}.{kind}": empty for n in range(spec.layers) for kind in ("key", "value")},
        **more,
    }
    known = {value.name for value in (*session.get_inputs(), *session.get_overridable_initializers())}
    return session.run(["logits"], {name: value for name, value in feeds.items() if name in known})[0]


def some_ids(rows: int = 2, length: int = 9, vocabulary: int = 96) -> np.ndarray:
    return np.random.default_rng(3).integers(0, vocabulary, (rows, length))


class Handmade:
    """A graph made node by node, for shapes that no architecture has."""

    def __init__(self) -> None:
        self.b = GraphBuilder()
        self.model = ir.Model(self.b.graph, ir_version=12)
        self.arrays: dict[str, np.ndarray] = {}

    def input(self, name: str, *shape: int | str, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        return self.b.input(name, dtype, shape)

    def output(self, value: ir.Value, name: str, *shape: int | str) -> None:
        self.b.output(value, name, ir.DataType.FLOAT, shape)

    def weight(self, name: str, *shape: int) -> ir.Value:
        """An initializer that holds rows of a checkpoint."""
        array = np.random.default_rng(len(self.arrays)).normal(0, 0.2, shape).astype(np.float32)
        self.arrays[name] = array
        rows = Rows(((name, shape[0]),), shape[1:], lambda n, start, stop: self.arrays[n][start:stop])
        return self.b.weight(name, rows)

    def linear(self, x: ir.Value, weight: ir.Value) -> ir.Value:
        return self.b.op("MatMul", [x, self.b.op("Transpose", [weight], {"perm": [1, 0]})])
