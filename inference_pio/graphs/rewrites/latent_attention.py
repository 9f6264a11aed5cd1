"""Attention over latents reads one shared buffer in place, with the heads of a token as rows of one product.

All heads attend to the same rows, so their queries stand below each other in one matrix: the buffer is read once for
all of them, and the product divides among threads whatever the number of heads. (The Attention operator makes one
product per head, and copies the buffer for each.) One new token and many of them have forms of their own, see
`latent_forms`.

The operators read every row of the buffer they are given. A caller hands in exactly the rows that are in use, or for
one token the few more that `rows_to_read` names; rows behind those in use change nothing as long as they hold finite
numbers. As with the fused attention of other models a batch is padded on the right, and every row's cache is compact:
of a row's new tokens, the padding comes last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from inference_pio.artifact.latent_rows import FEWEST_PARTS, PART_ROWS
from inference_pio.graphs.builder import MICROSOFT, GraphBuilder
from inference_pio.graphs.rewrites.latent_forms import Sizes, Values, choice, many_tokens, one_token, one_token_in_parts
from inference_pio.graphs.rewrites.latent_match import LatentMatch, check_whole_cache, match_latents
from inference_pio.graphs.rewrites.rewrite import LoweringContext, attribute, replace

HIDDEN = -1e30
"""What is added to the score of a key that a query must not see; finite, so that nothing becomes NaN."""


@dataclass(frozen=True)
class Shared:
    """What all layers share.

    `start` int64 [B] is where new tokens go; `bias` float32 [B, 1, S, T] is 0 for keys that a query sees, else HIDDEN;
    `one` bool [] says whether there is one new token, of one sequence, and `divides` bool [] whether the rows are many
    and divide into parts. The others are those of `latent_forms.Values`.
    """

    start: ir.Value
    bias: ir.Value
    one: ir.Value
    divides: ir.Value
    rows_shape: ir.Value
    bias_shape: ir.Value
    total: ir.Value


def pattern(node: ir.Node) -> LatentMatch | None:
    """A canonical attention over latents."""
    return match_latents(node)


def check(match: LatentMatch, context: LoweringContext) -> None:
    check_whole_cache(match)


def rewrite(graph: ir.Graph, match: LatentMatch, context: LoweringContext) -> None:
    b, latent, rank = GraphBuilder(graph), match.latent, match.rank
    assert latent is not None and rank is not None  # the check refused what has none
    shared = _shared(graph, context)
    past_B1TW, new_B1SW = match.append.inputs
    with b.before(match.append), b.scope(str(match.append.name)):
        present_B1TW = b.op("TensorScatter", [past_B1TW, new_B1SW, shared.start], {"axis": 2, "mode": "linear"})
    replace(match.append.outputs[0], present_B1TW)
    graph.remove(match.append, safe=True)

    q_BHSW, scale = match.attention.inputs[0], attribute(match.attention, "scale")
    sizes = Sizes(str(match.attention.name), context.spec.heads, context.spec.head_dim, rank, scale)
    constants = {numbers: b.const(list(numbers)) for numbers in sizes.constants}
    inputs = (q_BHSW, present_B1TW, shared.bias, shared.rows_shape, shared.bias_shape, shared.total)
    values = Values(*inputs, constants)
    one = choice(f"{sizes.name}/token", shared.divides, one_token_in_parts(sizes, values), one_token(sizes, values))
    branches = {"then_branch": one, "else_branch": many_tokens(sizes, values)}
    graph.opset_imports.setdefault(MICROSOFT, 1)
    with b.before(match.attention), b.scope(sizes.name):
        y_BHSL = b.op("If", [shared.one], branches, name="mix")
    replace(latent.outputs[0], y_BHSL)
    graph.remove([latent, match.attention], safe=True)


def _shared(graph: ir.Graph, context: LoweringContext) -> Shared:
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
        total_1 = b.op("Shape", [first_cache], {"start": 2, "end": 3}, name="total")
        key_T = b.op("Range", [b.const(0), b.op("Squeeze", [total_1]), b.const(1)])
        seen_B1ST = b.op("LessOrEqual", [key_T, b.op("Unsqueeze", [position_BS, b.const([1, 3])])])
        zero, hidden = b.const(0.0, np.float32), b.const(HIDDEN, np.float32)
        bias_B1ST = b.op("Where", [seen_B1ST, zero, hidden], name="bias")
        one = b.op("Equal", [b.op("Size", [inputs["input_ids"]]), b.const(1)], name="one")
        parts = _parts(b, total_1, context.spec.head_dim)
    inputs["position_ids"].replace_all_uses_with(position_BS)
    graph.meta["latent_attention"] = Shared(start_B, bias_B1ST, one, *parts, total_1)
    return graph.meta["latent_attention"]


def _parts(b: GraphBuilder, total_1: ir.Value, width: int) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Whether rows divide into parts of two pieces, enough of them, and the shapes of rows and bias in such parts."""
    one, two = b.const([1]), b.const([2])
    parts_1 = b.op("Max", [b.op("Div", [total_1, b.const([PART_ROWS])]), one], name="parts")
    pieces_1 = b.op("Mul", [parts_1, two], name="pieces")
    part_1 = b.op("Div", [total_1, pieces_1], name="part")
    even = b.op("Equal", [b.op("Mod", [total_1, pieces_1]), b.const([0])])
    enough = b.op("GreaterOrEqual", [parts_1, b.const([FEWEST_PARTS])])
    divides = b.op("Squeeze", [b.op("And", [even, enough])], name="divides")
    rows_shape = b.op("Concat", [parts_1, two, part_1, b.const([width])], {"axis": 0}, name="rows_shape")
    return divides, rows_shape, b.op("Concat", [parts_1, two, one, part_1], {"axis": 0}, name="bias_shape")
