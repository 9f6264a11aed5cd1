"""LayerNormalization as operators that TensorRT 8.5 has; its parser does not know the operator of opset 17."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError, attribute, replace


def pattern(node: ir.Node) -> ir.Node | None:
    """A LayerNormalization."""
    return node if (node.op_type, node.domain) == ("LayerNormalization", "") else None


def check(match: ir.Node, context: LoweringContext) -> None:
    if attribute(match, "axis", -1) != -1:
        raise NoMatchError("a norm over more than the last axis")
    if len(match.inputs) != 3 or match.inputs[2] is None:
        raise NoMatchError("a norm without a bias")


def rewrite(graph: ir.Graph, match: ir.Node, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    x, weight, bias = match.inputs
    last = {"axes": [-1], "keepdims": 1}
    with b.before(match), b.scope(str(match.name)):
        centred = b.op("Sub", [x, b.op("ReduceMean", [x], last, name="mean")], name="centred")
        variance = b.op("ReduceMean", [b.op("Mul", [centred, centred], name="square")], last, name="variance")
        epsilon = b.const(attribute(match, "epsilon", 1e-5), np.float32)
        root = b.op("Sqrt", [b.op("Add", [variance, epsilon])], name="root")
        scaled = b.op("Mul", [b.op("Div", [centred, root]), weight], name="scaled")
        normed = b.op("Add", [scaled, bias], name="normed")
    replace(match.outputs[0], normed)
    graph.remove(match, safe=True)
