"""Axes of reductions become inputs, as ONNX has them from opset 18 on; other rewrites make attributes of them."""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites.rewrite import LoweringContext

OPERATORS = ("ReduceMax", "ReduceMean")


def pattern(node: ir.Node) -> ir.Node | None:
    """A reduction with its axes as an attribute."""
    return node if node.op_type in OPERATORS and node.domain == "" and "axes" in node.attributes else None


def check(match: ir.Node, context: LoweringContext) -> None:
    """All of them mean the same either way."""


def rewrite(graph: ir.Graph, match: ir.Node, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    axes = b.const(list(match.attributes.pop("axes").as_ints()))
    match.resize_inputs(2)
    match.replace_input_with(1, axes)
