"""Swish becomes QuickGelu, `x * sigmoid(alpha * x)`: one kernel on a GPU, and known before opset 24."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.builder import MICROSOFT, GraphBuilder
from inference_pio.graphs.rewrites.rewrite import LoweringContext, attribute, replace


@dataclass(frozen=True)
class Match:
    """One activation."""

    swish: ir.Node


def pattern(node: ir.Node) -> Match | None:
    """`Swish(x)`."""
    return Match(node) if (node.op_type, node.domain) == ("Swish", "") else None


def check(match: Match, context: LoweringContext) -> None:
    """Nothing to refuse: both operators mean the same."""


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b, node = GraphBuilder(graph), match.swish
    with b.before(node):
        name = str(node.name).replace("Swish", "QuickGelu")
        y = b.op("QuickGelu", node.inputs, {"alpha": attribute(node, "alpha", 1.0)}, domain=MICROSOFT, name=name)
    replace(node.outputs[0], y)
    graph.remove(node, safe=True)
