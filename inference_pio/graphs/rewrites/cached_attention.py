"""Attention of grouped heads becomes MultiHeadAttention over a key/value buffer that is written in place.

For runtimes and types without GroupQueryAttention. MultiHeadAttention wants as many key heads as query heads; instead
of repeating keys, the query heads that share one stand below each other as rows of it: [B, S, KV * G, D] becomes
[B, S * G, KV * D]. Keys and values are handed over as they lie in the cache, [B, KV, C, D], a form that the operator
takes for cross attention and reads without a copy; an additive bias hides what a query must not see. ScatterND writes
the new rows: bound to one buffer as past and as present, it copies nothing else.
Operators: github.com/microsoft/onnxruntime/blob/v1.20.2/docs/ContribOperators.md.

As with GroupQueryAttention the ones of `attention_mask` are counted: batches are padded on the right and caches are
compact. The buffer may be longer than what counts of it, so its shape stays while a sequence grows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from inference_pio.graphs.builder import MICROSOFT, GraphBuilder
from inference_pio.graphs.rewrites.group_query_attention import TABLES, mask_window, same_angles, table_input
from inference_pio.graphs.rewrites.latent_attention import HIDDEN
from inference_pio.graphs.rewrites.rewrite import (
    LoweringContext,
    NoMatchError,
    attribute,
    check_scores,
    producer,
    replace,
)


@dataclass(frozen=True)
class Match:
    """One canonical attention layer."""

    attention: ir.Node
    rotation: ir.Node | None


@dataclass(frozen=True)
class Shared:
    """What all layers share.

    `position` int64 [B, S] of the new tokens, `index` int64 [B, S, KV, 3] of where their rows go in a cache, and by
    window a bias float32 [B, 1, S * G, C], 0 for keys that a query sees, else HIDDEN.
    """

    position: ir.Value
    index: ir.Value
    biases: dict[int | None, ir.Value] = field(default_factory=dict)


def pattern(node: ir.Node) -> Match | None:
    """`Attention(q, k, v, mask, past_key, past_value)`."""
    if (node.op_type, node.domain, len(node.inputs)) != ("Attention", "", 6):
        return None
    return Match(node, producer(node.inputs[0], "RotaryEmbedding"))


def check(match: Match, context: LoweringContext) -> None:
    node = match.attention
    check_scores(node)
    if attribute(node, "q_num_heads") % attribute(node, "kv_num_heads"):
        raise NoMatchError("query heads are not a multiple of key heads")
    if context.spec.rope.sections is not None and not _model_angles(match, context):
        raise NoMatchError("rotary angles other than the model's")
    mask_window(node.inputs[3])


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b, node = GraphBuilder(graph), match.attention
    heads, kv_heads = attribute(node, "q_num_heads"), attribute(node, "kv_num_heads")
    group, dim = heads // kv_heads, context.spec.head_dim
    q_BSN, k_BSN, v_BSN, _, *past = node.inputs
    shared = _shared(graph, match, context)
    bias = _bias(graph, shared, match, group)
    with b.before(node), b.scope(str(node.name).replace("Attention", "MultiHeadAttention")):
        presents = []
        for new_BSN, past_BKCD in zip((k_BSN, v_BSN), past, strict=True):
            new_BSKD = b.op("Reshape", [new_BSN, b.const([0, 0, kv_heads, dim])])
            presents.append(b.op("ScatterND", [past_BKCD, shared.index, new_BSKD], name="append"))
        q_BRM = q_BSN
        if group > 1:
            q_BSKGD = b.op("Reshape", [q_BSN, b.const([0, 0, kv_heads, group, dim])])
            q_BSGKD = b.op("Transpose", [q_BSKGD], {"perm": [0, 1, 3, 2, 4]})
            q_BRM = b.op("Reshape", [q_BSGKD, b.const([0, -1, kv_heads * dim])], name="queries")
        attributes = {"num_heads": kv_heads, "scale": attribute(node, "scale")}
        y = b.op("MultiHeadAttention", [q_BRM, *presents, None, None, bias], attributes, domain=MICROSOFT)
        if group > 1:
            y_BSGKD = b.op("Reshape", [y, b.const([0, -1, group, kv_heads, dim])])
            y_BSKGD = b.op("Transpose", [y_BSGKD], {"perm": [0, 1, 3, 2, 4]})
            y = b.op("Reshape", [y_BSKGD, b.const([0, 0, heads * dim])], name="heads")
    for old, new in zip(node.outputs, (y, *presents), strict=True):
        replace(old, new)
    graph.remove(node, safe=True)


def _model_angles(match: Match, context: LoweringContext) -> bool:
    """Whether queries turn by the model's angles; those are read from tables once one layer is rewritten."""
    if match.rotation is None:
        return False
    return producer(match.rotation.inputs[1], "Gather") is not None or same_angles(match.rotation, context)


def _shared(graph: ir.Graph, match: Match, context: LoweringContext) -> Shared:
    """Positions from the count of `attention_mask`; `position_ids` are computed instead of asked for."""
    if "cached_attention" in graph.meta:
        return graph.meta["cached_attention"]
    b = GraphBuilder(graph)
    inputs = {value.name: value for value in graph.inputs}
    kv_heads = context.spec.kv_heads
    with b.before(graph[0]), b.scope("cached"):
        count_B = b.op("ReduceSum", [inputs["attention_mask"], b.const([1])], {"keepdims": 0}, name="count")
        shape_2 = b.op("Shape", [inputs["input_ids"]], name="shape")
        new_1 = b.op("Slice", [shape_2, b.const([1]), b.const([2])], name="new")
        start_B = b.op("Sub", [b.op("Max", [count_B, new_1]), new_1], name="start")
        offset_S = b.op("Range", [b.const(0), b.op("Squeeze", [new_1]), b.const(1)], name="offset")
        position_BS = b.op("Add", [b.op("Unsqueeze", [start_B, b.const([1])]), offset_S], name="position")
        rows_1 = b.op("Slice", [shape_2, b.const([0]), b.const([1])], name="rows")
        row_B = b.op("Range", [b.const(0), b.op("Squeeze", [rows_1]), b.const(1)], name="row")
        size_4 = b.op("Concat", [shape_2, b.const([kv_heads, 1])], {"axis": 0}, name="index_shape")
        row_B111 = b.op("Unsqueeze", [row_B, b.const([1, 2, 3])])
        head_11K1 = b.const(np.arange(kv_heads).reshape(1, 1, kv_heads, 1))
        position_BS11 = b.op("Unsqueeze", [position_BS, b.const([2, 3])])
        parts = [b.op("Expand", [part, size_4]) for part in (row_B111, head_11K1, position_BS11)]
        index_BSK3 = b.op("Concat", parts, {"axis": -1}, name="index")
        if context.spec.rope.sections is None:
            inputs["position_ids"].replace_all_uses_with(position_BS)
        else:
            _read_angles(b, match, position_BS, context.spec.rope.dim // 2)
    graph.meta["cached_attention"] = Shared(position_BS, index_BSK3)
    return graph.meta["cached_attention"]


def _read_angles(b: GraphBuilder, match: Match, position_BS: ir.Value, width: int) -> None:
    """Angles come from tables that whoever feeds the graph fills, a row per token (see `group_query_attention`)."""
    assert match.rotation is not None  # checked
    for name, angles in zip(TABLES, match.rotation.inputs[1:3], strict=True):
        assert angles is not None
        table = table_input(b, name, width)
        angles.replace_all_uses_with(b.op("Gather", [table, position_BS], {"axis": 0}, name=name))


def _bias(graph: ir.Graph, shared: Shared, match: Match, group: int) -> ir.Value:
    window = mask_window(match.attention.inputs[3])
    if window not in shared.biases:
        b = GraphBuilder(graph)
        with b.before(match.attention), b.scope("cached" if window is None else f"cached_window_{window}"):
            position_BSG = b.op("Unsqueeze", [shared.position, b.const([2])])
            if group > 1:
                position_BSG = b.op("Expand", [position_BSG, b.const([1, 1, group])])
            query_B1R1 = b.op("Reshape", [position_BSG, b.const([0, 1, -1, 1])], name="query")
            capacity_1 = b.op("Shape", [match.attention.inputs[4]], {"start": 2, "end": 3}, name="capacity")
            key_C = b.op("Range", [b.const(0), b.op("Squeeze", [capacity_1]), b.const(1)], name="key")
            seen = b.op("LessOrEqual", [key_C, query_B1R1], name="causal")
            if window is not None:
                oldest = b.op("Sub", [query_B1R1, b.const(window)])
                seen = b.op("And", [seen, b.op("Greater", [key_C, oldest])])
            zero, hidden = b.const(0.0, np.float32), b.const(HIDDEN, np.float32)
            shared.biases[window] = b.op("Where", [seen, zero, hidden], name="bias")
    return shared.biases[window]
