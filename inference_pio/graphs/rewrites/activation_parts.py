"""Swish and Gelu as operators that every opset has."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError, attribute, replace


def pattern(node: ir.Node) -> ir.Node | None:
    """A Swish or a Gelu."""
    return node if node.domain == "" and node.op_type in ("Swish", "Gelu") else None


def check(match: ir.Node, context: LoweringContext) -> None:
    if match.op_type == "Swish" and attribute(match, "alpha", 1.0) != 1.0:
        raise NoMatchError("a Swish with another factor than 1")


def rewrite(graph: ir.Graph, match: ir.Node, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    x = match.inputs[0]
    assert x is not None
    with b.before(match), b.scope(str(match.name)):
        if match.op_type == "Swish":
            gate = b.op("Sigmoid", [x])
        elif attribute(match, "approximate", "none") == "tanh":
            gate = _half_of_one_plus(b, b.op("Tanh", [_tanh_argument(b, x)]))
        else:
            gate = _half_of_one_plus(b, b.op("Erf", [b.op("Mul", [x, b.const(math.sqrt(0.5), np.float32)])]))
        result = b.op("Mul", [x, gate], name="gated")
    replace(match.outputs[0], result)
    graph.remove(match, safe=True)


def _tanh_argument(b: GraphBuilder, x: ir.Value) -> ir.Value:
    """`sqrt(2 / pi) * (x + 0.044715 * x^3)`."""
    square = b.op("Mul", [x, x], name="square")
    factor = b.op("Add", [b.op("Mul", [square, b.const(0.044715, np.float32)]), b.const(1, np.float32)])
    return b.op("Mul", [b.op("Mul", [x, factor]), b.const(math.sqrt(2 / math.pi), np.float32)], name="inner")


def _half_of_one_plus(b: GraphBuilder, value: ir.Value) -> ir.Value:
    return b.op("Mul", [b.op("Add", [value, b.const(1, np.float32)]), b.const(0.5, np.float32)], name="share")
