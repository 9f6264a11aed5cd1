"""Attention over a cache of fixed size that is written in place: ONNX's TensorScatter and Attention.

A cache is head-major, [1, G, R, D] with R rows for the whole context, since TensorRT takes no other; its output is the
same buffer with the new rows written at `write_indices`. Attention reads the first P rows, as many as the bias on the
scores has columns; the bias hides those that are not in use.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.artifact.cache_rows import rounded_up
from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites import grouped_attention_parts
from inference_pio.graphs.rewrites.group_query_attention import mask_window
from inference_pio.graphs.rewrites.latent_match import match_latents
from inference_pio.graphs.rewrites.rewrite import LoweringContext, attribute, check_scores, replace

BIAS, WRITE = "attention_bias", "write_indices"
ROWS_AXIS = 2


@dataclass(frozen=True)
class Match:
    """One canonical attention, grouped or over latents; the Concat that appends latents, which goes with it."""

    attention: ir.Node
    append: ir.Node | None = None


def pattern(node: ir.Node) -> Match | None:
    """`Attention(q, k, v, mask, past_key, past_value)`, or one over latents."""
    latents = match_latents(node)
    if latents is not None:
        return Match(latents.attention, latents.append)
    found = grouped_attention_parts.pattern(node)
    return None if found is None else Match(found.attention)


def check(match: Match, context: LoweringContext) -> None:
    """As the forms that are taken apart."""
    if match.append is None:
        grouped_attention_parts.check(match, context)  # type: ignore[arg-type]
    else:
        check_scores(match.attention)
        mask_window(match.attention.inputs[3])


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b, node = GraphBuilder(graph), match.attention
    with b.before(node), b.scope(str(node.name)):
        attended = _grouped(b, node, context) if match.append is None else _latent(b, node, match.append, context)
    replace(node.outputs[0], attended)
    graph.remove(node, safe=True)
    if match.append is not None:
        graph.remove(match.append, safe=True)


def _grouped(b: GraphBuilder, node: ir.Node, context: LoweringContext) -> ir.Value:
    q_1SN, k_1SN, v_1SN, mask, *pasts = node.inputs
    heads, groups, size = attribute(node, "q_num_heads"), attribute(node, "kv_num_heads"), context.spec.head_dim
    bias, used = _bias(b, mask_window(mask))
    q_1HSD = _heads_first(b, q_1SN, heads, size)
    read = []
    for new, past, present in zip((k_1SN, v_1SN), pasts, node.outputs[1:], strict=True):
        rows_1GSD = _heads_first(b, new, groups, size)
        read.append(_cached(b, past, rows_1GSD, present, used, context))
    scale = attribute(node, "scale") or size**-0.5
    y_1HSD = b.op("Attention", [q_1HSD, *read, bias], {"scale": scale}, name="attended")
    y_1SHD = b.op("Transpose", [y_1HSD], {"perm": [0, 2, 1, 3]})
    return b.op("Reshape", [y_1SHD, b.const([1, -1, heads * size])], name="side_by_side")


def _latent(b: GraphBuilder, node: ir.Node, append: ir.Node, context: LoweringContext) -> ir.Value:
    """Keys and values are the same rows, which all heads share."""
    q_1HSW, _, _, mask = node.inputs
    bias, used = _bias(b, mask_window(mask))
    past, new_11SW = append.inputs
    rows_11PW = _cached(b, past, new_11SW, append.outputs[0], used, context)
    inputs = [q_1HSW, rows_11PW, rows_11PW, bias]
    return b.op("Attention", inputs, {"scale": attribute(node, "scale")}, name="attended")


def _cached(
    b: GraphBuilder,
    past: ir.Value | None,
    new_1GSD: ir.Value | None,
    present: ir.Value,
    used: ir.Value,
    context: LoweringContext,
) -> ir.Value:
    """The rows of a cache that are read, [1, G, P, D]; the cache with the new ones becomes the output `present`."""
    assert past is not None and past.shape is not None
    past.shape = ir.Shape([1, past.shape[1], rounded_up(context.context_length), past.shape[3]])
    write = b.shared_input(WRITE, ir.DataType.INT64, (1,))
    cache = b.op("TensorScatter", [past, new_1GSD, write], {"axis": -2}, name="cache")
    name, present.name = present.name, f"{present.name}/replaced"
    cache.name, cache.shape, cache.type = name, past.shape, ir.TensorType(ir.DataType.FLOAT)
    b.graph.outputs[list(b.graph.outputs).index(present)] = cache
    return b.op("Slice", [cache, b.const([0]), used, b.const([ROWS_AXIS])], name="rows")


def _bias(b: GraphBuilder, window: int | None) -> tuple[ir.Value, ir.Value]:
    """The input that is added to scores, [1, 1, S, P], and P as a tensor, made once for each window."""
    key = ("attention_bias", window)
    if key not in b.graph.meta:
        name = BIAS if window is None else f"{BIAS}.{window}"
        bias = b.input(name, ir.DataType.FLOAT, (1, 1, "sequence_length", "past_length"))
        b.graph.meta[key] = bias, b.op("Shape", [bias], {"start": 3, "end": 4}, name="rows_in_use")
    made: tuple[ir.Value, ir.Value] = b.graph.meta[key]
    return made


def _heads_first(b: GraphBuilder, x_1SN: ir.Value | None, heads: int, size: int) -> ir.Value:
    """[1, S, heads * D] -> [1, heads, S, D]."""
    x_1SHD = b.op("Reshape", [x_1SN, b.const([1, -1, heads, size])])
    return b.op("Transpose", [x_1SHD], {"perm": [0, 2, 1, 3]}, name="heads_first")
