"""Attention among the patches of an image, as products and a softmax."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError, attribute, replace


def pattern(node: ir.Node) -> ir.Node | None:
    """`Attention(q, k, v)` without a mask and without a cache."""
    return node if (node.op_type, node.domain, len(node.inputs)) == ("Attention", "", 3) else None


def check(match: ir.Node, context: LoweringContext) -> None:
    if attribute(match, "is_causal", 0) or attribute(match, "softcap", 0.0):
        raise NoMatchError("a causal mask or soft-capped scores")
    if attribute(match, "q_num_heads") != attribute(match, "kv_num_heads"):
        raise NoMatchError("heads that share keys")


def rewrite(graph: ir.Graph, match: ir.Node, context: LoweringContext) -> None:
    b, heads = GraphBuilder(graph), attribute(match, "q_num_heads")
    q_IPC, k_IPC, v_IPC = match.inputs
    with b.before(match), b.scope(str(match.name)):
        q_IPC = b.op("Mul", [q_IPC, b.const(attribute(match, "scale"), np.float32)], name="scaled")
        q_IHPD, k_IHDP, v_IHPD = (
            b.op("Transpose", [b.op("Reshape", [x, b.const([0, 0, heads, -1])])], {"perm": perm}, name="heads")
            for x, perm in ((q_IPC, [0, 2, 1, 3]), (k_IPC, [0, 2, 3, 1]), (v_IPC, [0, 2, 1, 3]))
        )
        shares = b.op("Softmax", [b.op("MatMul", [q_IHPD, k_IHDP])], {"axis": -1}, name="shares")
        y_IHPD = b.op("MatMul", [shares, v_IHPD], name="seen")
        y_IPHD = b.op("Transpose", [y_IHPD], {"perm": [0, 2, 1, 3]})
        y_IPC = b.op("Reshape", [y_IPHD, b.const([0, 0, -1])], name="side_by_side")
    replace(match.outputs[0], y_IPC)
    graph.remove(match, safe=True)
