"""Attention over latents with a token-major cache, as products and a softmax; keys and values are the same rows."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites.attention_parts import Rows, attend, biases, make_past, make_present
from inference_pio.graphs.rewrites.group_query_attention import mask_window
from inference_pio.graphs.rewrites.latent_match import LatentMatch, match_latents
from inference_pio.graphs.rewrites.rewrite import LoweringContext, attribute, check_scores, replace


def pattern(node: ir.Node) -> LatentMatch | None:
    """A canonical attention over latents."""
    return match_latents(node)


def check(match: LatentMatch, context: LoweringContext) -> None:
    check_scores(match.attention)
    mask_window(match.attention.inputs[3])


def rewrite(graph: ir.Graph, match: LatentMatch, context: LoweringContext) -> None:
    b, node = GraphBuilder(graph), match.attention
    heads, width = context.spec.heads, context.spec.head_dim
    q_1HSW, _, _, mask = node.inputs
    past_1P1W, new_11SW = match.append.inputs
    assert past_1P1W is not None
    with b.before(node), b.scope(str(node.name)):
        past_bias, new_bias = biases(b, mask_window(mask), heads)
        rows = b.op("Reshape", [new_11SW, b.const([1, -1, 1, width])], name="new")
        scale = b.const(attribute(node, "scale"), np.float32)
        q_11MW = b.op("Reshape", [b.op("Mul", [q_1HSW, scale]), b.const([1, 1, -1, width])], name="query_rows")
        parts = [Rows(past_1P1W, past_1P1W, past_bias), Rows(rows, rows, new_bias)]
        y_1HSW = b.op("Reshape", [attend(b, q_11MW, parts), b.const([1, heads, -1, width])], name="by_head")
    make_past(past_1P1W, 1, width)
    make_present(match.append.outputs[0], rows, 1, width)
    replace(node.outputs[0], y_1HSW)
    graph.remove(node, safe=True)
    graph.remove(match.append, safe=True)
