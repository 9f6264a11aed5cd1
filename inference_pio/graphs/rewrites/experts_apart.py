"""What experts give is added last, so that everything before it can run without them, elsewhere.

`x + (experts + shared)` becomes `(x + shared) + experts`.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.blocks.moe import DOMAIN, NAMES
from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites.rewrite import LoweringContext, only_consumer


@dataclass(frozen=True)
class Match:
    """The sum of experts and shared experts, and its addition to the residual stream."""

    experts: ir.Value
    inner: ir.Node
    outer: ir.Node


def pattern(node: ir.Node) -> Match | None:
    """`Add(x, Add(experts, shared))`."""
    if node.domain != DOMAIN or node.op_type not in NAMES.values():
        return None
    inner = only_consumer(node.outputs[0], "Add")
    outer = None if inner is None else only_consumer(inner.outputs[0], "Add")
    return None if inner is None or outer is None else Match(node.outputs[0], inner, outer)


def check(match: Match, context: LoweringContext) -> None:
    """Sums may be taken in any order."""


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    shared = next(value for value in match.inner.inputs if value is not match.experts)
    x = next(value for value in match.outer.inputs if value is not match.inner.outputs[0])
    with b.before(match.outer):
        sooner = b.op("Add", [x, shared], name=f"{match.outer.name}/with_shared")
    match.outer.replace_input_with(0, sooner)
    match.outer.replace_input_with(1, match.experts)
    graph.remove(match.inner, safe=True)
