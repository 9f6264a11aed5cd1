"""The projections of hidden states to queries and to latents become one linear layer and a Split."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.rewrites.packing import check_packable, pack
from inference_pio.graphs.rewrites.rewrite import LinearMatch, LoweringContext, match_linear, producer
from inference_pio.graphs.weights import stored_rows


@dataclass(frozen=True)
class Match:
    """The two projections of one attention layer in the order queries, latents."""

    linears: tuple[LinearMatch, ...]


def pattern(node: ir.Node) -> Match | None:
    """A Split of `latents(x)` where exactly one other linear layer reads `x`."""
    if (node.op_type, node.domain) != ("Split", "") or node.inputs[0] is None:
        return None
    latents = _linear_behind(node.inputs[0])
    if latents is None:
        return None
    readers = [match_linear(reader) for reader in latents.x.consumers()]
    others = [linear for linear in readers if linear is not None and linear.nodes[0] is not latents.nodes[0]]
    return Match((others[0], latents)) if len(others) == 1 else None


def check(match: Match, context: LoweringContext) -> None:
    check_packable(match.linears, context)


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    (name, _), *_ = stored_rows(match.linears[0].weight).parts
    pack(graph, match.linears, f"{name.rsplit('.', 2)[0]}.q_kv_a_proj")


def _linear_behind(value: ir.Value) -> LinearMatch | None:
    node = value.producer()
    if node is not None and node.op_type == "Add":  # the bias
        node = next((found for v in node.inputs if (found := producer(v, "MatMul"))), node)
    linear = match_linear(node) if node is not None else None
    return linear if linear is not None and linear.output is value else None
