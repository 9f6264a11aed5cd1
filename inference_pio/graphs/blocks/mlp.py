"""Feed-forward blocks."""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.graphs.blocks.linear import linear
from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec


def swiglu(
    b: GraphBuilder,
    source: WeightSource,
    spec: DecoderSpec,
    x_BSC: ir.Value,
    prefix: str,
    layer: int,
    width: int | None = None,
) -> ir.Value:
    """`down(silu(gate(x)) * up(x))` -> [B, S, C] (Shazeer 2020, arXiv:2002.05202), `width` wide inside."""
    hidden, inner = spec.hidden_size, width or spec.intermediate_size
    gate_BSF = linear(b, source, x_BSC, f"{prefix}.gate_proj", (inner, hidden), spec.mlp_bias)
    up_BSF = linear(b, source, x_BSC, f"{prefix}.up_proj", (inner, hidden), spec.mlp_bias)
    inner_BSF = b.op("Mul", [b.op("Swish", [gate_BSF]), up_BSF])
    return linear(b, source, inner_BSF, f"{prefix}.down_proj", (hidden, inner), spec.mlp_bias)
