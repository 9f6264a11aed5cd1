"""Grouped-query attention over a token-major cache, as products and a softmax."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites.attention_parts import Rows, attend, biases, make_past, make_present
from inference_pio.graphs.rewrites.group_query_attention import mask_window
from inference_pio.graphs.rewrites.rewrite import LoweringContext, attribute, check_scores, replace


@dataclass(frozen=True)
class Match:
    """One canonical attention layer with its mask's window."""

    attention: ir.Node


def pattern(node: ir.Node) -> Match | None:
    """`Attention(q, k, v, mask, past_key, past_value)`."""
    if (node.op_type, node.domain, len(node.inputs)) != ("Attention", "", 6):
        return None
    return Match(node) if all(v is not None and v.is_graph_input() for v in node.inputs[4:]) else None


def check(match: Match, context: LoweringContext) -> None:
    check_scores(match.attention)
    mask_window(match.attention.inputs[3])


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b, node = GraphBuilder(graph), match.attention
    q_1SN, k_1SN, v_1SN, mask, past_key, past_value = node.inputs
    heads, groups, size = attribute(node, "q_num_heads"), attribute(node, "kv_num_heads"), context.spec.head_dim
    repeats, scale = heads // groups, attribute(node, "scale") or size**-0.5
    assert past_key is not None and past_value is not None
    with b.before(node), b.scope(str(node.name)):
        past_bias, new_bias = biases(b, mask_window(mask), repeats)
        key, value = (b.op("Reshape", [v, b.const([1, -1, groups, size])], name="new") for v in (k_1SN, v_1SN))
        q_1SN = b.op("Mul", [q_1SN, b.const(scale, np.float32)], name="scaled")
        q_1SGRD = b.op("Reshape", [q_1SN, b.const([1, -1, groups, repeats, size])], name="query_heads")
        q_1GRSD = b.op("Transpose", [q_1SGRD], {"perm": [0, 2, 3, 1, 4]})
        q_1GMD = b.op("Reshape", [q_1GRSD, b.const([1, groups, -1, size])], name="query_rows")
        y_1GMD = attend(b, q_1GMD, Rows(past_key, past_value, past_bias), Rows(key, value, new_bias))
        y_1GRSD = b.op("Reshape", [y_1GMD, b.const([1, groups, repeats, -1, size])])
        y_1SGRD = b.op("Transpose", [y_1GRSD], {"perm": [0, 3, 1, 2, 4]})
        y_1SN = b.op("Reshape", [y_1SGRD, b.const([1, -1, heads * size])], name="side_by_side")
    for past in (past_key, past_value):
        make_past(past, groups, size)
    for present, rows in zip(node.outputs[1:], (key, value), strict=True):
        make_present(present, rows, groups, size)
    replace(node.outputs[0], y_1SN)
    graph.remove(node, safe=True)
