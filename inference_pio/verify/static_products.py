"""Weights of products between QuantizeLinear and DequantizeLinear as the original's layers would use them.

The weight is an int8 initializer behind a DequantizeLinear, [K, N] with a scale per column for MatMul, [N, K, 1, 1]
with one per row for Conv; the activation passes a QuantizeLinear with one step. Columns whose codes are zero come back
through a float product of gathered columns that is added. Casts may stand between float16 and float32.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inference_pio.errors import BadInputError
from inference_pio.verify.integer_products import IntegerProduct
from inference_pio.verify.neighbours import before_casts, constant, producer, readers, tensor_of
from inference_pio.verify.tensors import read_rows
from inference_pio.verify.weights import InputRounding


def read_static_product(dequantize: ir.Node) -> IntegerProduct:
    """The weight behind a DequantizeLinear node; raises BadInputError for a form that the exporter does not write."""
    codes, scales = tensor_of(dequantize.inputs[0]), tensor_of(dequantize.inputs[1])
    product = next((node for node, _ in dequantize.outputs[0].uses()), None)
    rounded = None if product is None else producer(product.inputs[0], "DequantizeLinear")
    step = None if rounded is None else constant(rounded.inputs[1])
    by_rows = product is not None and product.op_type == "Conv"
    if codes is None or scales is None or step is None or product is None or product.op_type not in ("MatMul", "Conv"):
        raise BadInputError(f"node '{dequantize.name}' dequantizes in a form that the simulation does not know")
    size = tuple(int(n) for n in codes.shape.numpy())[:2]
    shape = size if by_rows else size[::-1]
    columns, exact = ((), None) if by_rows else _exact(product)

    def read(start: int, stop: int) -> np.ndarray:
        if by_rows:
            rows = read_rows(codes, start, stop).reshape(stop - start, -1).astype(np.float32)
        else:
            rows = read_rows(codes, 0, size[0])[:, start:stop].T.astype(np.float32)
        rows *= read_rows(scales, start, stop)[:, None]
        if exact is not None:
            rows[:, list(columns)] = read_rows(exact, 0, len(columns)).T[start:stop]
        return rows

    return IntegerProduct((shape[0], shape[1]), read, InputRounding(step=float(step), exact=columns))


def _exact(product: ir.Node) -> tuple[tuple[int, ...], ir.TensorProtocol | None]:
    """The columns that are multiplied as floats and their weights [E, N]; none where nothing is added."""
    for node in readers(product.outputs[0]):
        for value in node.inputs if node.op_type == "Add" else ():
            other = producer(before_casts(value), "MatMul")
            gather = None if other is None else producer(before_casts(other.inputs[0]), "Gather")
            indices = None if gather is None else constant(gather.inputs[1])
            if other is not None and indices is not None:
                return tuple(int(i) for i in indices.reshape(-1)), tensor_of(before_casts(other.inputs[1]))
    return (), None
