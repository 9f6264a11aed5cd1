"""Attention of all to all, as in a vision tower, becomes MultiHeadAttention, which never holds a matrix of all scores.

The canonical operator computes scores of every head and pair of patches at once: 17 GB for the largest image.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.builder import MICROSOFT, GraphBuilder
from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError, attribute, replace


@dataclass(frozen=True)
class Match:
    """One attention without mask and cache."""

    attention: ir.Node


def pattern(node: ir.Node) -> Match | None:
    """`Attention(q, k, v)`."""
    return Match(node) if (node.op_type, node.domain) == ("Attention", "") and len(node.inputs) == 3 else None


def check(match: Match, context: LoweringContext) -> None:
    node = match.attention
    if attribute(node, "is_causal", 0):
        raise NoMatchError("it is causal")
    if attribute(node, "softcap", 0.0):
        raise NoMatchError("soft-capped scores")
    if attribute(node, "q_num_heads") != attribute(node, "kv_num_heads"):
        raise NoMatchError("query heads share key/value heads")


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b, node = GraphBuilder(graph), match.attention
    attributes = {"num_heads": attribute(node, "q_num_heads")}
    if attribute(node, "scale") is not None:
        attributes["scale"] = attribute(node, "scale")
    with b.before(node):
        name = (node.name or "attention").replace("Attention", "MultiHeadAttention")
        y = b.op("MultiHeadAttention", node.inputs, attributes, domain=MICROSOFT, name=name)
    replace(node.outputs[0], y)
    graph.remove(node, safe=True)
