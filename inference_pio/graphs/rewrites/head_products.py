"""Products with a weight of its own for every head take the kernel of the weight's format.

In float32 they are one batched product. No quantized kernel is batched, so there each head becomes a MatMulNBits, which
reads an eighth to a quarter of the bytes; in integer-product formats too, because a head's channels are few.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from inference_pio.graphs.builder import MICROSOFT, GraphBuilder
from inference_pio.graphs.formats import WeightFormat
from inference_pio.graphs.quantize import QuantizeRows
from inference_pio.graphs.rewrites.linear_kernels import accuracy, check_product, half_table
from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError, attribute, producer, replace
from inference_pio.graphs.source import tensor_of
from inference_pio.graphs.weights import Recipe, Rows, holds_rows, stored_rows


@dataclass(frozen=True)
class Match:
    """`MatMul(x_BHSK, weight)`; the weight is [H, K, N], or [H, N, K] and `transposed`."""

    matmul: ir.Node
    weight: ir.Value
    transposed: bool


def pattern(node: ir.Node) -> Match | None:
    """A product with rows of the checkpoint in three axes."""
    if (node.op_type, node.domain) != ("MatMul", ""):
        return None
    transpose = producer(node.inputs[1], "Transpose")
    transposed = transpose is not None and list(attribute(transpose, "perm", [])) == [0, 2, 1]
    weight = transpose.inputs[0] if transpose is not None and transposed else node.inputs[1]
    return Match(node, weight, transposed) if weight is not None and holds_rows(weight, rank=3) else None


def check(match: Match, context: LoweringContext) -> None:
    if len(list(match.weight.uses())) > 1:
        raise NoMatchError("the weight is used elsewhere too")
    tensor = tensor_of(stored_rows(match.weight))
    check_product(tensor, context.format_of(tensor), context.kernels)


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    rows = stored_rows(match.weight)
    chosen = context.format_of(tensor_of(rows))
    with b.before(match.matmul), b.scope(str(match.matmul.name)):
        if chosen.quantized:
            y_BHSN = _by_head(b, match, rows, chosen)
        else:
            weight = match.weight
            if chosen.bits == 16:
                weight = b.op("Cast", [half_table(b, rows)], {"to": int(ir.DataType.FLOAT)})
            attributes = {"transB": int(match.transposed)}
            y_BHSN = b.op("FusedMatMul", [match.matmul.inputs[0], weight], attributes, domain=MICROSOFT)
    replace(match.matmul.outputs[0], y_BHSN)
    graph.remove(match.matmul, safe=True)


def _by_head(b: GraphBuilder, match: Match, rows: Rows, chosen: WeightFormat) -> ir.Value:
    """One `MatMulNBits` per head between a Split and a Concat."""
    heads = rows.count
    inputs = b.ops("Split", [match.matmul.inputs[0]], {"axis": 1, "num_outputs": heads}, heads)
    outputs = []
    for head, x_B1SK in enumerate(inputs):
        own = head_rows(rows, head, match.transposed)
        columns, block = own.tail[0], chosen.block(own.tail[0])
        job = QuantizeRows(own, chosen.bits, block)
        shape = (own.count, job.blocks, block * chosen.bits // 8)
        data = b.lazy(f"{own.label}.blocks", ir.DataType.UINT8, shape, Recipe(job, sources=own.parts))
        scales = b.lazy(f"{own.label}.scales", ir.DataType.FLOAT, shape[:2], Recipe(job, side=True))
        attributes = {"K": columns, "N": own.count, "bits": chosen.bits, "block_size": block, **accuracy(chosen)}
        outputs.append(b.op("MatMulNBits", [x_B1SK, data, scales], attributes, domain=MICROSOFT))
    return b.op("Concat", outputs, {"axis": 1})


def head_rows(rows: Rows, head: int, transposed: bool) -> Rows:
    """One head's weight as rows [N, K] of a linear layer; `name[part]` becomes `name[part.head]`."""
    (name, _), *_ = rows.parts
    count, columns = rows.tail if transposed else reversed(rows.tail)
    return Rows(((f"{name[:-1]}.{head}]", count),), (columns,), partial(_read_head, rows, head, transposed))


def rows_by_head(rows: Rows, transposed: bool) -> Rows:
    """The weights of all heads below each other, [H * N, K], each with the name that `head_rows` gives it."""
    heads = [head_rows(rows, head, transposed) for head in range(rows.count)]
    readers = {head.label: head.read_rows for head in heads}

    def read(part: str, start: int, stop: int) -> np.ndarray:
        return readers[part](part, start, stop)

    return Rows(tuple(part for head in heads for part in head.parts), heads[0].tail, read)


def _read_head(rows: Rows, head: int, transposed: bool, _: str, start: int, stop: int) -> np.ndarray:
    weight = rows.read(head, head + 1)[0]
    return weight[start:stop] if transposed else np.ascontiguousarray(weight.T[start:stop])
