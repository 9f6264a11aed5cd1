"""Attention over cached latents becomes PagedAttention with its LATENT cache, the fused form of CUDA.

The operator takes the latent rows as keys, the first channels of each as values, and a query head per row of a token,
absorbed as in the canonical graph. Its cache consists of blocks: [blocks, 256, 1, W] of one sequence one behind the
other are the memory of [1, 1, C, W], so the graph's cache inputs and outputs have that shape, and the table of blocks
counts up. It writes new rows in place; only past and present in one buffer make sense.
Operator: github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.PagedAttention.

One sequence at a time: its blocks are all that there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.artifact.cache_rows import BUCKET
from inference_pio.graphs.builder import MICROSOFT, GraphBuilder
from inference_pio.graphs.rewrites.latent_match import LatentMatch, check_whole_cache, match_latents
from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError, attribute, replace

BLOCK_TOKENS = BUCKET
"""Tokens of a block; the fused kernels want a multiple of 256. The runtime's buffers grow by whole blocks."""


@dataclass(frozen=True)
class Shared:
    """What all layers share: int32 positions of sequences in the batch, tokens cached before, and the block table."""

    ends: ir.Value
    past: ir.Value
    blocks: ir.Value


def pattern(node: ir.Node) -> LatentMatch | None:
    """A canonical attention over latents."""
    return match_latents(node)


def check(match: LatentMatch, context: LoweringContext) -> None:
    check_whole_cache(match)
    if context.spec.mla is None or context.spec.head_dim % 8:
        raise NoMatchError("rows of the cache are not a multiple of 8 channels")


def rewrite(graph: ir.Graph, match: LatentMatch, context: LoweringContext) -> None:
    b, node, spec = GraphBuilder(graph), match.attention, context.spec
    assert spec.mla is not None  # checked
    heads, width, values = spec.heads, spec.head_dim, spec.mla.kv_rank
    past, new_B1SW = match.append.inputs
    present = match.append.outputs[0]
    assert past is not None
    for value in (past, present):
        value.shape = ir.Shape(["blocks", BLOCK_TOKENS, 1, width])
    shared = _shared(graph, past, context)
    with b.before(node), b.scope(str(node.name)):
        q_BSHW = b.op("Transpose", [node.inputs[0]], {"perm": [0, 2, 1, 3]})
        q_TN = b.op("Reshape", [q_BSHW, b.const([-1, heads * width])], name="queries")
        k_TW = b.op("Reshape", [new_B1SW, b.const([-1, width])], name="keys")
        attributes = {
            "num_heads": heads,
            "kv_num_heads": 1,
            "scale": attribute(node, "scale"),
            "kv_cache_layout": "LATENT",
            "v_head_size": values,
        }
        inputs = [q_TN, k_TW, None, past, None, shared.ends, shared.past, shared.blocks]
        y_TN, written = b.ops("PagedAttention", inputs, attributes, 2, domain=MICROSOFT)
        # The canonical result has the width of a cached row, of which the first channels are read.
        shape_4 = b.op("Concat", [b.op("Shape", [q_BSHW], {"start": 0, "end": 3}), b.const([values])], {"axis": 0})
        y_BHSL = b.op("Transpose", [b.op("Reshape", [y_TN, shape_4])], {"perm": [0, 2, 1, 3]}, name="mixed")
    replace(present, written)
    written.shape = ir.Shape(["blocks", BLOCK_TOKENS, 1, width])
    replace(node.outputs[0], y_BHSL)
    graph.remove(node, safe=True)
    graph.remove(match.append, safe=True)


def _shared(graph: ir.Graph, past: ir.Value, context: LoweringContext) -> Shared:
    """Lengths from the count of `attention_mask`; `position_ids` are computed instead of asked for."""
    if "paged_latents" in graph.meta:
        return graph.meta["paged_latents"]
    b = GraphBuilder(graph)
    inputs = {value.name: value for value in graph.inputs}
    int32 = {"to": int(ir.DataType.INT32)}
    with b.before(graph[0]), b.scope("paged"):
        count_B = b.op("ReduceSum", [inputs["attention_mask"], b.const([1])], {"keepdims": 0}, name="count")
        new_1 = b.op("Shape", [inputs["input_ids"]], {"start": 1, "end": 2}, name="new")
        start_B = b.op("Sub", [count_B, new_1], name="start")
        offset_S = b.op("Range", [b.const(0), b.op("Squeeze", [new_1]), b.const(1)], name="offset")
        position_BS = b.op("Add", [b.op("Unsqueeze", [start_B, b.const([1])]), offset_S], name="position")
        ends = b.op("Cast", [b.op("Concat", [b.const([0]), new_1], {"axis": 0})], int32, name="ends")
        past_B = b.op("Cast", [start_B], int32, name="past")
        count = b.op("Squeeze", [b.op("Shape", [past], {"start": 0, "end": 1})], name="blocks")
        number_N = b.op("Range", [b.const(0), count, b.const(1)], name="block")
        blocks_1N = b.op("Cast", [b.op("Unsqueeze", [number_N, b.const([0])])], int32, name="block_table")
    inputs["position_ids"].replace_all_uses_with(position_BS)
    graph.meta["paged_latents"] = Shared(ends, past_B, blocks_1N)
    return graph.meta["paged_latents"]
