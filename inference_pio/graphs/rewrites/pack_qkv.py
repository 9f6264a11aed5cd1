"""Query, key and value projections become one linear layer and a Split."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.rewrites.packing import check_packable, pack
from inference_pio.graphs.rewrites.rewrite import LinearMatch, LoweringContext, match_linear
from inference_pio.graphs.weights import stored_rows

THROUGH = ("RotaryEmbedding", "Reshape", "RMSNormalization")


@dataclass(frozen=True)
class Match:
    """The projections of one attention layer in the order query, key, value."""

    linears: tuple[LinearMatch, ...]


def pattern(node: ir.Node) -> Match | None:
    """An Attention whose query, key and value come from linear layers over the same value."""
    if (node.op_type, node.domain) != ("Attention", ""):
        return None
    linears = [_projection(value) for value in node.inputs[:3]]
    if any(linear is None for linear in linears):
        return None
    found = tuple(linear for linear in linears if linear is not None)
    return Match(found) if len({linear.x for linear in found}) == 1 else None


def check(match: Match, context: LoweringContext) -> None:
    check_packable(match.linears, context)


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    (name, _), *_ = stored_rows(match.linears[0].weight).parts
    pack(graph, match.linears, name.replace("q_proj.weight", "qkv_proj"))


def _projection(value: ir.Value | None) -> LinearMatch | None:
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in THROUGH:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None:
        return None
    if node.op_type == "Add":  # the bias
        node = next((p for v in node.inputs if v is not None and (p := v.producer()) is not None), node)
    return match_linear(node)
