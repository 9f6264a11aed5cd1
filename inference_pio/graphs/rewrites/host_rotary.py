"""The rotary angles of a decoder become inputs: the host makes one row of cos and of sin per new token.

That keeps positions, one or three per token, out of the graph, and with them all integers.
"""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites.group_query_attention import same_angles
from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError, attribute

ROWS = ("cos", "sin")


def pattern(node: ir.Node) -> ir.Node | None:
    """A RotaryEmbedding."""
    return node if (node.op_type, node.domain) == ("RotaryEmbedding", "") else None


def check(match: ir.Node, context: LoweringContext) -> None:
    if attribute(match, "rotary_embedding_dim", 0):
        raise NoMatchError("a partial rotary embedding")
    if not same_angles(match, context):
        raise NoMatchError("rotary angles other than the model's")


def rewrite(graph: ir.Graph, match: ir.Node, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    for index, name in enumerate(ROWS, start=1):
        rows = b.shared_input(name, ir.DataType.FLOAT, ["sequence_length", context.spec.rope.dim // 2])
        match.replace_input_with(index, rows)
