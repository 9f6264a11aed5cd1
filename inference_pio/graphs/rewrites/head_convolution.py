"""The head becomes a 1x1 convolution, whose weight has the layout of the token table: one row per token.

So a tied table is stored once, as the bytes of the head's weight, and the host looks rows up in them. It is also the
form in which TensorRT 8.5 runs a product with a constant int8 weight. A float16 head stays a product over the table's
rows, for which TensorRT sums in float32.
"""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.errors import BadInputError
from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.formats import FP16
from inference_pio.graphs.rewrites.rewrite import LinearMatch, LoweringContext, NoMatchError, match_linear, replace
from inference_pio.graphs.rewrites.static_products import dequantized_kernel, is_static, rounded
from inference_pio.graphs.weights import Recipe, StoreRows, stored_rows


def pattern(node: ir.Node) -> LinearMatch | None:
    """The linear layer whose result is the graph output `logits`."""
    head = match_linear(node)
    return head if head is not None and head.output.is_graph_output() and head.output.name == "logits" else None


def check(match: LinearMatch, context: LoweringContext) -> None:
    if match.bias is not None:
        raise NoMatchError("a head with a bias")


def rewrite(graph: ir.Graph, match: LinearMatch, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    rows = stored_rows(match.weight)
    width = rows.tail[0]
    static = is_static(rows, context)
    match.output.shape = ir.Shape([1, "sequence_length", rows.count])
    if context.format_of(rows.parts[0][0]) == FP16:
        return
    with b.before(match.nodes[0]), b.scope("head"):
        x_1CS = b.op("Transpose", [match.x], {"perm": [0, 2, 1]}, name="channels_first")
        x_1CS1 = b.op("Reshape", [x_1CS, b.const([1, width, -1, 1])], name="image")
        if static:
            if context.head_step is None:
                raise BadInputError(f"'{rows.label}' has no calibrated activation scale: export with --calibration")
            x_1CS1 = rounded(b, x_1CS1, context.head_step)
            weight = dequantized_kernel(b, str(match.weight.name), rows)
        else:
            recipe = Recipe(StoreRows(rows), sources=rows.parts)
            weight = b.lazy(f"{match.weight.name}.kernel", ir.DataType.FLOAT, (rows.count, width, 1, 1), recipe)
        y_1VS1 = b.op("Conv", [x_1CS1, weight], {"kernel_shape": [1, 1]}, name="product")
        y_1VS = b.op("Reshape", [y_1VS1, b.const([1, rows.count, -1])], name="sequence")
        logits = b.op("Transpose", [y_1VS], {"perm": [0, 2, 1]}, name="logits")
    replace(match.output, logits)
    for node in reversed(match.nodes):
        graph.remove(node, safe=True)
