"""Weights of integer products (MatMulIntegerToFloat) as the original's layers would use them.

The graph says everything: the row before QuantizeLinear is either divided by its largest magnitude (a scale per token)
or not (one step for all), columns that a mask takes out come back through a float product that is added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from inference_pio.errors import BadInputError
from inference_pio.verify.tensors import read_rows
from inference_pio.verify.weights import InputRounding

ZERO_POINT = 128


@dataclass(frozen=True)
class IntegerProduct:
    """A product's weight [N, K] in float32, read by rows, and how its input is rounded."""

    shape: tuple[int, int]
    read: Callable[[int, int], np.ndarray]
    rounding: InputRounding


def read_product(node: ir.Node) -> IntegerProduct:
    """The weight of a MatMulIntegerToFloat node; raises BadInputError for a form that the exporter does not write."""
    quantize = _producer(node.inputs[0], "QuantizeLinear")
    codes, scales = _tensor(node.inputs[1]), _tensor(node.inputs[3])
    zero = None if quantize is None else _constant(quantize.inputs[2])
    step = None if quantize is None else _constant(quantize.inputs[1])
    if quantize is None or codes is None or scales is None or zero is None or step is None or int(zero) != ZERO_POINT:
        raise BadInputError(f"node '{node.name}' is an integer product of a form that the simulation does not know")
    divide = _producer(quantize.inputs[0], "Div")
    columns, exact = _exact(node, divide is not None)
    size = tuple(int(n) for n in codes.shape.numpy())

    def read(start: int, stop: int) -> np.ndarray:
        factors = read_rows(scales, start, stop)
        rows = read_rows(codes, 0, size[0])[:, start:stop].T.astype(np.float32) * factors[:, None]
        if exact is not None:
            rows[:, list(columns)] = read_rows(exact, 0, len(columns)).T[start:stop]
        return rows

    rounding = InputRounding(step=None if divide is not None else float(step), exact=columns)
    return IntegerProduct((size[1], size[0]), read, rounding)


def _exact(node: ir.Node, per_token: bool) -> tuple[tuple[int, ...], ir.TensorProtocol | None]:
    """The columns that are multiplied in float32 and their weights [E, N]; none where nothing is added."""
    output = node.outputs[0]
    if per_token:
        scaled = _reader(output, "Mul")
        if scaled is None:
            raise BadInputError(f"the product of node '{node.name}' is not scaled per row: export the artifact again")
        output = scaled.outputs[0]
    add = _reader(output, "Add")
    product = next((p for value in add.inputs if (p := _producer(value, "MatMul"))), None) if add else None
    gather = _producer(product.inputs[0], "Gather") if product else None
    indices = _constant(gather.inputs[1]) if gather else None
    if product is None or indices is None:
        return (), None
    return tuple(int(i) for i in indices.reshape(-1)), _tensor(product.inputs[1])


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type else None


def _reader(value: ir.Value, op_type: str) -> ir.Node | None:
    return next((node for node, _ in value.uses() if node.op_type == op_type), None)


def _tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    return None if value is None else value.const_value


def _constant(value: ir.Value | None) -> np.ndarray | None:
    tensor = _tensor(value)
    return None if tensor is None else tensor.numpy()
