"""Grouped-query attention over a cache of fixed size that is written in place: ONNX's TensorScatter and Attention.

A cache is head-major, [1, G, P, D], and its output is the same buffer with the new rows written at `write_indices`. The
bias on the scores hides the rows that are not in use, so attention is one fused operator over the whole buffer.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites.group_query_attention import mask_window
from inference_pio.graphs.rewrites.grouped_attention_parts import check as check_parts
from inference_pio.graphs.rewrites.grouped_attention_parts import pattern as pattern_parts
from inference_pio.graphs.rewrites.rewrite import LoweringContext, attribute, replace

BIAS, WRITE = "attention_bias", "write_indices"


@dataclass(frozen=True)
class Match:
    """One canonical attention layer."""

    attention: ir.Node


def pattern(node: ir.Node) -> Match | None:
    """`Attention(q, k, v, mask, past_key, past_value)`."""
    found = pattern_parts(node)
    return None if found is None else Match(found.attention)


def check(match: Match, context: LoweringContext) -> None:
    """As `grouped_attention_parts`."""
    check_parts(match, context)  # type: ignore[arg-type]


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b, node = GraphBuilder(graph), match.attention
    q_1SN, k_1SN, v_1SN, mask, *pasts = node.inputs
    heads, groups, size = attribute(node, "q_num_heads"), attribute(node, "kv_num_heads"), context.spec.head_dim
    window = mask_window(mask)
    with b.before(node), b.scope(str(node.name)):
        bias = _input(b, BIAS if window is None else f"{BIAS}.{window}", ir.DataType.FLOAT, _BIAS_SHAPE)
        write = _input(b, WRITE, ir.DataType.INT64, (1,))
        q_1HSD = _heads_first(b, q_1SN, heads, size)
        cached = []
        for new, past in ((k_1SN, pasts[0]), (v_1SN, pasts[1])):
            rows_1GSD = _heads_first(b, new, groups, size)
            cached.append(b.op("TensorScatter", [past, rows_1GSD, write], {"axis": -2}, name="cache"))
        scale = attribute(node, "scale") or size**-0.5
        y_1HSD = b.op("Attention", [q_1HSD, *cached, bias], {"scale": scale}, name="attended")
        y_1SHD = b.op("Transpose", [y_1HSD], {"perm": [0, 2, 1, 3]})
        y_1SN = b.op("Reshape", [y_1SHD, b.const([1, -1, heads * size])], name="side_by_side")
    for past, present, rows in zip(pasts, node.outputs[1:], cached, strict=True):
        assert past is not None
        past.shape = ir.Shape([1, groups, "past_length", size])
        name, present.name = present.name, f"{present.name}/replaced"
        rows.name, rows.shape, rows.type = name, past.shape, ir.TensorType(ir.DataType.FLOAT)
        graph.outputs[list(graph.outputs).index(present)] = rows
    replace(node.outputs[0], y_1SN)
    graph.remove(node, safe=True)


_BIAS_SHAPE = (1, 1, "sequence_length", "past_length")


def _heads_first(b: GraphBuilder, x_1SN: ir.Value | None, heads: int, size: int) -> ir.Value:
    """[1, S, heads * D] -> [1, heads, S, D]."""
    x_1SHD = b.op("Reshape", [x_1SN, b.const([1, -1, heads, size])])
    return b.op("Transpose", [x_1SHD], {"perm": [0, 2, 1, 3]}, name="heads_first")


def _input(b: GraphBuilder, name: str, dtype: ir.DataType, shape: tuple[int | str, ...]) -> ir.Value:
    found = next((value for value in b.graph.inputs if value.name == name), None)
    return found or b.input(name, dtype, shape)
