"""RMS norms take the operator that ONNX Runtime had before the standard one, SimplifiedLayerNormalization.

It is registered in the standard's own domain; onnx.checker does not know it there.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites.rewrite import LoweringContext, attribute, replace


@dataclass(frozen=True)
class Match:
    """One RMS norm."""

    norm: ir.Node


def pattern(node: ir.Node) -> Match | None:
    """`RMSNormalization(x, weight)`."""
    return Match(node) if (node.op_type, node.domain) == ("RMSNormalization", "") else None


def check(match: Match, context: LoweringContext) -> None:
    """Nothing to refuse: both operators mean the same."""


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b, node = GraphBuilder(graph), match.norm
    attributes = {
        "axis": attribute(node, "axis", -1),
        "epsilon": attribute(node, "epsilon", 1e-5),
        "stash_type": attribute(node, "stash_type", 1),
    }
    with b.before(node):
        y = b.op("SimplifiedLayerNormalization", node.inputs, attributes, name=f"{node.name}/simple_norm")
    replace(node.outputs[0], y)
    graph.remove(node, safe=True)
