"""The norms of query and key heads, and the split of their packed projection, move into GroupQueryAttention.

CUDA kernels of today take both: one launch instead of seven. There is no CPU kernel for the norms.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.builder import MICROSOFT
from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError, attribute, producer

NORM_INPUTS = 14, 15
"""`q_norm_weight` and `k_norm_weight`."""


@dataclass(frozen=True)
class Match:
    """A fused attention, the norms before it, and the Split before those where query, key and value are packed."""

    attention: ir.Node
    norms: tuple[ir.Node, ir.Node]
    inner: tuple[ir.Value | None, ir.Value | None]


def pattern(node: ir.Node) -> Match | None:
    """`GroupQueryAttention(Reshape(norm(Reshape(q))), Reshape(norm(Reshape(k))), v, ...)`."""
    if (node.op_type, node.domain) != ("GroupQueryAttention", MICROSOFT):
        return None
    found = [_norm(value) for value in node.inputs[:2]]
    if found[0] is None or found[1] is None:
        return None
    return Match(node, (found[0][0], found[1][0]), (found[0][1], found[1][1]))


def check(match: Match, context: LoweringContext) -> None:
    epsilons = {attribute(norm, "epsilon", 1e-5) for norm in match.norms}
    if len(epsilons) != 1:
        raise NoMatchError("the norms of queries and keys differ in their epsilon")
    if not attribute(match.attention, "do_rotary", 0):
        raise NoMatchError("the heads are rotated outside of the operator, after their norms")


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    node, value = match.attention, match.attention.inputs[2]
    node.resize_inputs(NORM_INPUTS[1] + 1)
    for index, norm in zip(NORM_INPUTS, match.norms, strict=True):
        node.replace_input_with(index, norm.inputs[1])
    epsilon = attribute(match.norms[0], "epsilon", 1e-5)
    node.attributes["qk_norm_epsilon"] = ir.AttrFloat32("qk_norm_epsilon", epsilon)
    split = producer(match.inner[0], "Split")
    packed = split is not None and list(split.outputs) == [*match.inner, value]
    inputs = [split.inputs[0], None, None] if split is not None and packed else [*match.inner, value]
    for index, new in enumerate(inputs):
        node.replace_input_with(index, new)


def _norm(value: ir.Value | None) -> tuple[ir.Node, ir.Value | None] | None:
    """A norm over heads between two Reshapes, and what goes in."""
    outer = producer(value, "Reshape")
    norm = None if outer is None else producer(outer.inputs[0], "RMSNormalization")
    inner = None if norm is None else producer(norm.inputs[0], "Reshape")
    return None if norm is None or inner is None else (norm, inner.inputs[0])
