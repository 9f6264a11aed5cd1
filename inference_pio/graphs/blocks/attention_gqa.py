"""Grouped-query attention over a growing key/value cache (Ainslie et al. 2023, arXiv:2305.13245)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from inference_pio.graphs.blocks.linear import linear
from inference_pio.graphs.blocks.norm import rms_norm
from inference_pio.graphs.blocks.rope import rotate
from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec


@dataclass(frozen=True)
class AttentionInputs:
    """What all attention layers of a graph share."""

    angles: tuple[ir.Value, ir.Value]
    masks: dict[int | None, ir.Value]


def attention_mask(b: GraphBuilder, mask_BT: ir.Value, ids_BS: ir.Value, window: int | None) -> ir.Value:
    """Who sees whom: bool [B, 1, S, T] from the padding mask alone.

    A row's positions are counted over its ones, so padding on either side, and gaps that earlier chunks left in the
    cache, change nothing. A `window` counts the token itself.
    """
    with b.scope("mask" if window is None else f"mask_window_{window}"):
        valid_BT = b.op("Cast", [mask_BT], {"to": int(ir.DataType.BOOL)})
        count_BT = b.op("CumSum", [mask_BT, b.const(1)])
        new_S = b.op("Shape", [ids_BS], {"start": 1, "end": 2})
        ends = b.const([np.iinfo(np.int64).max])
        query_BS = b.op("Slice", [count_BT, b.op("Neg", [new_S]), ends, b.const([1])], name="query_count")
        query_B1S1 = b.op("Unsqueeze", [query_BS, b.const([1, 3])])
        key_B11T = b.op("Unsqueeze", [count_BT, b.const([1, 2])])
        seen = b.op("LessOrEqual", [key_B11T, query_B1S1], name="causal")
        if window is not None:
            oldest = b.op("Sub", [query_B1S1, b.const(window)])
            seen = b.op("And", [seen, b.op("Greater", [key_B11T, oldest])])
        return b.op("And", [seen, b.op("Unsqueeze", [valid_BT, b.const([1, 2])])])


def attention_gqa(
    b: GraphBuilder,
    source: WeightSource,
    spec: DecoderSpec,
    x_BSC: ir.Value,
    prefix: str,
    layer: int,
    shared: AttentionInputs,
) -> ir.Value:
    """Attention of one layer -> [B, S, C]; adds the layer's cache inputs and outputs to the graph."""
    heads, kv_heads, dim = spec.heads, spec.kv_heads, spec.head_dim
    q = linear(b, source, x_BSC, f"{prefix}.q_proj", (heads * dim, spec.hidden_size), spec.qkv_bias)
    k = linear(b, source, x_BSC, f"{prefix}.k_proj", (kv_heads * dim, spec.hidden_size), spec.qkv_bias)
    v = linear(b, source, x_BSC, f"{prefix}.v_proj", (kv_heads * dim, spec.hidden_size), spec.qkv_bias)
    if spec.qk_norm:
        q = head_norm(b, source, q, f"{prefix}.q_norm", heads, dim, spec.norm_epsilon)
        k = head_norm(b, source, k, f"{prefix}.k_norm", kv_heads, dim, spec.norm_epsilon)
    q, k = rotate(b, q, shared.angles, heads), rotate(b, k, shared.angles, kv_heads)

    past = [
        b.input(f"past_key_values.{layer}.{kind}", ir.DataType.FLOAT, ["batch", kv_heads, "past_length", dim])
        for kind in ("key", "value")
    ]
    attributes = {"q_num_heads": heads, "kv_num_heads": kv_heads, "scale": dim**-0.5, "is_causal": 0}
    mask = shared.masks[spec.windows[layer]]
    y_BSN, *present = b.ops("Attention", [q, k, v, mask, *past], attributes, 3)
    for value, kind in zip(present, ("key", "value"), strict=True):
        b.output(value, f"present.{layer}.{kind}", ir.DataType.FLOAT, ["batch", kv_heads, "total_length", dim])
    return linear(b, source, y_BSN, f"{prefix}.o_proj", (spec.hidden_size, heads * dim), spec.output_bias)


def head_norm(
    b: GraphBuilder, source: WeightSource, x_BSN: ir.Value, name: str, heads: int, dim: int, epsilon: float
) -> ir.Value:
    """RMS norm of every head by itself; same shape as `x_BSN`."""
    x_BSHD = b.op("Reshape", [x_BSN, b.const([0, 0, heads, dim])])
    normed = rms_norm(b, source, x_BSHD, name, dim, epsilon)
    return b.op("Reshape", [normed, b.const([0, 0, heads * dim])])
