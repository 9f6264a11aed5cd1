"""A residual Add and the RMS norm after it become SkipSimplifiedLayerNormalization, which yields both results."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.builder import MICROSOFT, GraphBuilder
from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError, attribute, producer, replace


@dataclass(frozen=True)
class Match:
    """The residual addition and the norm that reads it."""

    add: ir.Node
    norm: ir.Node


def pattern(node: ir.Node) -> Match | None:
    """`RMSNormalization(Add(x, y), weight)`."""
    if (node.op_type, node.domain) != ("RMSNormalization", ""):
        return None
    add = producer(node.inputs[0], "Add")
    return None if add is None else Match(add, node)


def check(match: Match, context: LoweringContext) -> None:
    if any(value is None or value.is_initializer() for value in match.add.inputs):
        raise NoMatchError("the addition is a bias, not a residual connection")
    if attribute(match.norm, "axis", -1) != -1:
        raise NoMatchError("the norm is not over the last axis")
    readers = [n for n in match.add.outputs[0].consumers() if n.op_type == "RMSNormalization"]
    if len(readers) != 1:
        raise NoMatchError("several norms read the sum")


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    with b.before(match.add):
        normed, mean, deviation, total = b.ops(
            "SkipSimplifiedLayerNormalization",
            [*match.add.inputs, match.norm.inputs[1]],
            {"epsilon": attribute(match.norm, "epsilon", 1e-5)},
            4,
            domain=MICROSOFT,
            name=f"{match.norm.name}/skip_norm",
        )
        mean.name = deviation.name = ""  # not wanted
    replace(match.norm.outputs[0], normed)
    graph.remove(match.norm, safe=True)
    replace(match.add.outputs[0], total)
    graph.remove(match.add, safe=True)
