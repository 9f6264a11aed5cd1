"""The gate and up projections of a gated MLP become one linear layer and a Split."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.rewrites.packing import check_packable, pack
from inference_pio.graphs.rewrites.rewrite import LinearMatch, LoweringContext, match_linear, producer
from inference_pio.graphs.weights import stored_rows


@dataclass(frozen=True)
class Match:
    """The two projections of one MLP in the order gate, up."""

    linears: tuple[LinearMatch, ...]


def pattern(node: ir.Node) -> Match | None:
    """`Mul(Swish(gate(x)), up(x))`."""
    swish = producer(node.inputs[0], "Swish") if node.op_type == "Mul" and len(node.inputs) == 2 else None
    if swish is None or swish.inputs[0] is None or node.inputs[1] is None:
        return None
    matmuls = [swish.inputs[0].producer(), node.inputs[1].producer()]
    linears = tuple(m for n in matmuls if n is not None and (m := match_linear(n)) is not None)
    same = len(linears) == 2 and linears[0].x is linears[1].x
    return Match(linears) if same else None


def check(match: Match, context: LoweringContext) -> None:
    check_packable(match.linears, context)


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    (name, _), *_ = stored_rows(match.linears[0].weight).parts
    pack(graph, match.linears, name.replace("gate_proj.weight", "gate_up_proj"))
