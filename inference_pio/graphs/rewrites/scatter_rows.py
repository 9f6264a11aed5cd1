"""TensorScatter becomes ScatterND, which ONNX Runtime has had for longer; both write in place into a shared buffer."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError, attribute, replace


@dataclass(frozen=True)
class Match:
    """One append to a cache."""

    scatter: ir.Node


def pattern(node: ir.Node) -> Match | None:
    """`TensorScatter(cache, new, start)`."""
    return Match(node) if (node.op_type, node.domain, len(node.inputs)) == ("TensorScatter", "", 3) else None


def check(match: Match, context: LoweringContext) -> None:
    if attribute(match.scatter, "mode", "linear") != "linear" or attribute(match.scatter, "axis", -2) != 2:
        raise NoMatchError("it does not append along the tokens")
    if context.spec.kv_heads != 1:
        raise NoMatchError("the cache has several heads")


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b, node = GraphBuilder(graph), match.scatter
    past_B1CW, new_B1SW, start_B = node.inputs
    index = _index(graph, node, new_B1SW, start_B)
    with b.before(node):
        present_B1CW = b.op("ScatterND", [past_B1CW, index, new_B1SW], name=f"{node.name}/append")
    replace(node.outputs[0], present_B1CW)
    graph.remove(node, safe=True)


def _index(graph: ir.Graph, node: ir.Node, new_B1SW: ir.Value | None, start_B: ir.Value | None) -> ir.Value:
    """Where the new rows go, int64 [B, 1, S, 3]; made once."""
    if "scatter_rows" in graph.meta:
        return graph.meta["scatter_rows"]
    b = GraphBuilder(graph)
    with b.before(node), b.scope("append"):
        shape_3 = b.op("Shape", [new_B1SW], {"start": 0, "end": 3}, name="shape")
        size_4 = b.op("Concat", [shape_3, b.const([1])], {"axis": 0}, name="index_shape")
        limits = [b.op("Squeeze", [b.op("Slice", [shape_3, b.const([i]), b.const([i + 1])])]) for i in (0, 2)]
        row_B, offset_S = (b.op("Range", [b.const(0), limit, b.const(1)]) for limit in limits)
        position_BS = b.op("Add", [b.op("Unsqueeze", [start_B, b.const([1])]), offset_S], name="position")
        row_B111 = b.op("Unsqueeze", [row_B, b.const([1, 2, 3])])
        position_B1S1 = b.op("Unsqueeze", [position_BS, b.const([1, 3])])
        parts = [b.op("Expand", [part, size_4]) for part in (row_B111, b.const([[[[0]]]]), position_B1S1)]
        graph.meta["scatter_rows"] = b.op("Concat", parts, {"axis": -1}, name="index")
    return graph.meta["scatter_rows"]
