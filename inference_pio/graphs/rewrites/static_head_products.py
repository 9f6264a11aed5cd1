"""Products with a weight of its own for every head, in the static w8a8 format, as a grouped 1x1 convolution.

A head is a group: [1, H * K, S, 1] by int8 weights [H * N, K, 1, 1] with a scale per row, so every channel of every
head has its own. A batched MatMul has no such form: the DequantizeLinear of TensorRT 8.5 has scales along one axis of
[H, K, N], which heads would have to share. For one token nothing moves in the transposes around the convolution.

The groups of an int8 convolution have a multiple of 4 channels on both sides (`IConvolutionLayer::setNbGroups`);
weights with other heads stay float32. There is one step for the inputs of all heads.
"""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites import head_products
from inference_pio.graphs.rewrites.head_products import rows_by_head
from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError, replace
from inference_pio.graphs.rewrites.static_products import dequantized_kernel, is_static, rounded, step_of
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.graphs.weights import stored_rows

GROUP_MULTIPLE = 4


def fits_groups(spec: DecoderSpec) -> bool:
    """Whether the heads of a decoder with latent attention have sizes that int8 groups may have."""
    mla = spec.mla
    return mla is not None and all(size % GROUP_MULTIPLE == 0 for size in (mla.nope_dim, mla.kv_rank, mla.value_dim))


def pattern(node: ir.Node) -> head_products.Match | None:
    """`MatMul(x_BHSK, weight)` with a weight by head."""
    return head_products.pattern(node)


def check(match: head_products.Match, context: LoweringContext) -> None:
    if not is_static(stored_rows(match.weight), context):
        raise NoMatchError("it stays float32")
    if not fits_groups(context.spec):
        raise NoMatchError(f"the channels of a head are no multiple of {GROUP_MULTIPLE}")


def rewrite(graph: ir.Graph, match: head_products.Match, context: LoweringContext) -> None:
    b, whole = GraphBuilder(graph), stored_rows(match.weight)
    rows, heads = rows_by_head(whole, match.transposed), whole.count
    with b.before(match.matmul), b.scope(str(match.matmul.name)):
        x_1HKS = b.op("Transpose", [match.matmul.inputs[0]], {"perm": [0, 1, 3, 2]}, name="channels_first")
        x_1CS1 = b.op("Reshape", [x_1HKS, b.const([1, heads * rows.tail[0], -1, 1])], name="image")
        x_1CS1 = rounded(b, x_1CS1, step_of(context, whole, []))
        weight = dequantized_kernel(b, str(match.weight.name), rows)
        y_1MS1 = b.op("Conv", [x_1CS1, weight], {"kernel_shape": [1, 1], "group": heads}, name="product")
        y_1HNS = b.op("Reshape", [y_1MS1, b.const([1, heads, rows.count // heads, -1])], name="heads")
        y_1HSN = b.op("Transpose", [y_1HNS], {"perm": [0, 1, 3, 2]}, name="tokens")
    replace(match.matmul.outputs[0], y_1HSN)
    graph.remove(match.matmul, safe=True)
