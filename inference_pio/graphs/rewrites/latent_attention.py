"""Attention over latents reads one shared buffer in place, with the heads of a token as rows of one product.

All heads attend to the same rows, so their queries stand below each other in one matrix: the buffer is read once for
all of them, in prefill and in decode, and the product divides among threads whatever the number of heads. (The
Attention operator makes one product per head, and copies the buffer for each.)

The operators read every row of the buffer they are given. A caller hands in exactly the rows that are in use; rows
behind them change nothing as long as they hold finite numbers. As with the fused attention of other models a batch is
padded on the right, and every row's cache is compact: of a row's new tokens, the padding comes last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from inference_pio.graphs.builder import MICROSOFT, GraphBuilder
from inference_pio.graphs.rewrites.group_query_attention import mask_window
from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError, attribute, producer, replace

HIDDEN = -1e30
"""What is added to the score of a key that a query must not see; finite, so that nothing becomes NaN."""


@dataclass(frozen=True)
class Match:
    """One canonical attention over latents, and the Concat that appends to its cache."""

    attention: ir.Node
    append: ir.Node


@dataclass(frozen=True)
class Shared:
    """What all layers share.

    `start` int64 [B] is where new tokens go; `bias` float32 [B, 1, S, T] is 0 for keys that a query sees, else HIDDEN.
    """

    start: ir.Value
    bias: ir.Value


def pattern(node: ir.Node) -> Match | None:
    """`Attention(q, rows, rows, mask)` with `rows = Concat(graph input, new)`."""
    if (node.op_type, node.domain, len(node.inputs)) != ("Attention", "", 4) or node.inputs[1] is not node.inputs[2]:
        return None
    append = producer(node.inputs[1], "Concat")
    past = append.inputs[0] if append is not None else None
    return Match(node, append) if append is not None and past is not None and past.is_graph_input() else None


def check(match: Match, context: LoweringContext) -> None:
    if attribute(match.attention, "is_causal", 0):
        raise NoMatchError("the causal mask is not explicit")
    if attribute(match.attention, "softcap", 0.0):
        raise NoMatchError("soft-capped scores")
    if attribute(match.append, "axis") != 2 or len(match.append.inputs) != 2:
        raise NoMatchError("the cache does not grow along its tokens")
    if mask_window(match.attention.inputs[3]) is not None:
        raise NoMatchError("a sliding window")
    if not match.append.outputs[0].is_graph_output():
        raise NoMatchError("the cache is not given back")


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    shared = _shared(graph)
    past_B1TW, new_B1SW = match.append.inputs
    with b.before(match.append), b.scope(str(match.append.name)):
        present_B1TW = b.op("TensorScatter", [past_B1TW, new_B1SW, shared.start], {"axis": 2, "mode": "linear"})
    replace(match.append.outputs[0], present_B1TW)
    graph.remove(match.append, safe=True)

    q_BHSW, scale = match.attention.inputs[0], attribute(match.attention, "scale")
    heads = context.spec.heads
    with b.before(match.attention), b.scope(str(match.attention.name)):
        total = b.op("Shape", [shared.bias], {"start": 3, "end": 4}, name="total")
        one_matrix, by_head = _shape(b, (0, 1, -1), total, "rows"), _shape(b, (0, heads, -1), total, "heads")
        q_B1RW = b.op("Reshape", [q_BHSW, b.const([0, 1, -1, context.spec.head_dim])], name="queries")
        attributes = {"transB": 1, "alpha": scale}
        scores_B1RT = b.op("FusedMatMul", [q_B1RW, present_B1TW], attributes, domain=MICROSOFT, name="scores")
        scores_BHST = b.op("Add", [b.op("Reshape", [scores_B1RT, by_head]), shared.bias], name="seen")
        weights_BHST = b.op("Softmax", [scores_BHST], {"axis": -1})
        y_B1RW = b.op("MatMul", [b.op("Reshape", [weights_BHST, one_matrix]), present_B1TW], name="mix")
        y_BHSW = b.op("Reshape", [y_B1RW, b.const([0, heads, -1, context.spec.head_dim])])
    replace(match.attention.outputs[0], y_BHSW)
    graph.remove(match.attention, safe=True)


def _shape(b: GraphBuilder, leading: tuple[int, ...], last_1: ir.Value, name: str) -> ir.Value:
    return b.op("Concat", [b.const(list(leading)), last_1], {"axis": 0}, name=f"{name}_shape")


def _shared(graph: ir.Graph) -> Shared:
    """Lengths and masks from the count of `attention_mask`; `position_ids` are computed instead of asked for."""
    if "latent_attention" in graph.meta:
        return graph.meta["latent_attention"]
    b = GraphBuilder(graph)
    inputs = {value.name: value for value in graph.inputs}
    with b.before(graph[0]), b.scope("latent"):
        count_B = b.op("ReduceSum", [inputs["attention_mask"], b.const([1])], {"keepdims": 0}, name="count")
        new_1 = b.op("Shape", [inputs["input_ids"]], {"start": 1, "end": 2}, name="new")
        start_B = b.op("Sub", [b.op("Max", [count_B, new_1]), new_1], name="start")
        offset_S = b.op("Range", [b.const(0), b.op("Squeeze", [new_1]), b.const(1)])
        position_BS = b.op("Add", [b.op("Unsqueeze", [start_B, b.const([1])]), offset_S], name="position")
        first_cache = next(value for name, value in inputs.items() if str(name).startswith("past_key_values."))
        rows = b.op("Squeeze", [b.op("Shape", [first_cache], {"start": 2, "end": 3})], name="rows")
        key_T = b.op("Range", [b.const(0), rows, b.const(1)])
        seen_B1ST = b.op("LessOrEqual", [key_T, b.op("Unsqueeze", [position_BS, b.const([1, 3])])])
        zero, hidden = b.const(0.0, np.float32), b.const(HIDDEN, np.float32)
        bias_B1ST = b.op("Where", [seen_B1ST, zero, hidden], name="bias")
    inputs["position_ids"].replace_all_uses_with(position_BS)
    graph.meta["latent_attention"] = Shared(start_B, bias_B1ST)
    return graph.meta["latent_attention"]
