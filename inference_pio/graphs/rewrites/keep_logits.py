"""The head computes only the last `num_logits_to_keep` positions: an optional input, 0 (the default) keeps all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites.rewrite import LinearMatch, LoweringContext, NoMatchError, match_linear

INPUT = "num_logits_to_keep"


@dataclass(frozen=True)
class Match:
    """The linear layer that makes the logits."""

    head: LinearMatch


def pattern(node: ir.Node) -> Match | None:
    """The linear layer whose result is the graph output `logits`."""
    head = match_linear(node)
    return Match(head) if head is not None and head.output.is_graph_output() and head.output.name == "logits" else None


def check(match: Match, context: LoweringContext) -> None:
    graph = match.head.nodes[0].graph
    if graph is not None and any(value.name == INPUT for value in graph.inputs):
        raise NoMatchError(f"the graph has an input {INPUT} already")


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    keep = ir.Value(
        name=INPUT,
        shape=ir.Shape([1]),
        type=ir.TensorType(ir.DataType.INT64),
        const_value=ir.tensor(np.zeros(1, np.int64), name=INPUT),
    )
    graph.register_initializer(keep)
    graph.inputs.append(keep)
    node = match.head.nodes[0]
    with b.before(node), b.scope("head"):
        ends = b.const([np.iinfo(np.int64).max])
        last = b.op("Slice", [match.head.x, b.op("Neg", [keep]), ends, b.const([1])], name="last_positions")
    node.replace_input_with(0, last)
