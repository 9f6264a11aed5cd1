"""Rotary embeddings become the operator that ONNX Runtime had before the standard one (domain com.microsoft).

It looks angles up in a table by position. The table is made of the angles that the graph computes, one row per token,
so there is none to store and no limit to a context.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.builder import MICROSOFT, GraphBuilder
from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError, attribute, replace


@dataclass(frozen=True)
class Match:
    """One standard rotation by angles [B, S, D / 2]."""

    rotation: ir.Node


def pattern(node: ir.Node) -> Match | None:
    """`RotaryEmbedding(x, cos, sin)`."""
    return Match(node) if (node.op_type, node.domain, len(node.inputs)) == ("RotaryEmbedding", "", 3) else None


def check(match: Match, context: LoweringContext) -> None:
    if not attribute(match.rotation, "num_heads", 0):
        raise NoMatchError("the number of heads is not stated")


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b, node = GraphBuilder(graph), match.rotation
    x, cos, sin = node.inputs
    assert cos is not None and sin is not None
    position_BS, tables = _table(graph, node, cos, sin)
    attributes = {
        "num_heads": attribute(node, "num_heads"),
        "interleaved": attribute(node, "interleaved", 0),
        "rotary_embedding_dim": attribute(node, "rotary_embedding_dim", 0),
    }
    with b.before(node):
        name = str(node.name).replace("RotaryEmbedding", "Rotary")
        y = b.op("RotaryEmbedding", [x, position_BS, *tables], attributes, domain=MICROSOFT, name=name)
    replace(node.outputs[0], y)
    graph.remove(node, safe=True)


def _table(graph: ir.Graph, node: ir.Node, cos: ir.Value, sin: ir.Value) -> tuple[ir.Value, list[ir.Value]]:
    """The row of every token, int64 [B, S], and the angles as tables [B * S, D / 2]; made once per pair of angles."""
    made = graph.meta.setdefault("rotary_tables", {})
    if (cos, sin) not in made:
        b = GraphBuilder(graph)
        with b.before(node), b.scope("rope"):
            tables = [b.op("Flatten", [angles], {"axis": 2}, name="table") for angles in (cos, sin)]
            shape_2 = b.op("Shape", [cos], {"start": 0, "end": 2}, name="tokens_shape")
            tokens = b.op("Squeeze", [b.op("Shape", [tables[0]], {"start": 0, "end": 1})], name="tokens")
            row_T = b.op("Range", [b.const(0), tokens, b.const(1)], name="row")
            made[cos, sin] = b.op("Reshape", [row_T, shape_2], name="row_of_token"), tables
    return made[cos, sin]
