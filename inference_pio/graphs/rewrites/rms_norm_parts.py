"""RMSNormalization as operators that every opset has."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError, attribute, replace


def pattern(node: ir.Node) -> ir.Node | None:
    """An RMSNormalization."""
    return node if (node.op_type, node.domain) == ("RMSNormalization", "") else None


def check(match: ir.Node, context: LoweringContext) -> None:
    if attribute(match, "axis", -1) != -1:
        raise NoMatchError("a norm over more than the last axis")


def rewrite(graph: ir.Graph, match: ir.Node, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    x, weight = match.inputs
    with b.before(match), b.scope(str(match.name)):
        square = b.op("Mul", [x, x], name="square")
        mean = b.op("ReduceMean", [square], {"axes": [-1], "keepdims": 1}, name="mean")
        epsilon = b.const(attribute(match, "epsilon", 1e-5), np.float32)
        root = b.op("Sqrt", [b.op("Add", [mean, epsilon])], name="root")
        normed = b.op("Mul", [b.op("Div", [x, root]), weight], name="normed")
    replace(match.outputs[0], normed)
    graph.remove(match, safe=True)
