"""Weights of products between QuantizeLinear and DequantizeLinear as the original's layers would use them.

The weight is an int8 initializer behind a DequantizeLinear, [K, N] with a scale per column for MatMul, [N, K, 1, 1]
with one per row for Conv; the activation passes a QuantizeLinear with one step. Columns whose codes are zero come back
through a float product of gathered columns that is added. Casts may stand between float16 and float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from inference_pio.errors import BadInputError
from inference_pio.verify.integer_products import IntegerProduct
from inference_pio.verify.tensors import read_rows
from inference_pio.verify.weights import InputRounding


def read_static_product(dequantize: ir.Node) -> IntegerProduct:
    """The weight behind a DequantizeLinear node; raises BadInputError for a form that the exporter does not write."""
    codes, scales = _tensor(dequantize.inputs[0]), _tensor(dequantize.inputs[1])
    product = next((node for node, _ in dequantize.outputs[0].uses()), None)
    rounded = None if product is None else _producer(product.inputs[0], "DequantizeLinear")
    step = None if rounded is None else _constant(rounded.inputs[1])
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
    for node in _readers(product.outputs[0]):
        for value in node.inputs if node.op_type == "Add" else ():
            other = _producer(_before_casts(value), "MatMul")
            gather = None if other is None else _producer(_before_casts(other.inputs[0]), "Gather")
            indices = None if gather is None else _constant(gather.inputs[1])
            if other is not None and indices is not None:
                return tuple(int(i) for i in indices.reshape(-1)), _tensor(_before_casts(other.inputs[1]))
    return (), None


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    """What reads a value, perhaps through a Cast."""
    for node, _ in value.uses():
        if node.op_type == "Cast":
            yield from _readers(node.outputs[0])
        else:
            yield node


def _before_casts(value: ir.Value | None) -> ir.Value | None:
    while (cast := _producer(value, "Cast")) is not None:
        value = cast.inputs[0]
    return value


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type else None


def _tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    return None if value is None else value.const_value


def _constant(value: ir.Value | None) -> np.ndarray | None:
    tensor = _tensor(value)
    return None if tensor is None else tensor.numpy()
