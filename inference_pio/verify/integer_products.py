"""Weights of integer products (MatMulIntegerToFloat, MatMulInteger) as the original's layers would use them.

The graph says everything: the row before QuantizeLinear is either divided by its largest magnitude (a scale per token)
or not (one step for all), columns that a mask takes out come back through a float product that is added. MatMulInteger
takes signed activations, and its scales follow in two multiplications: by channel, then by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from inference_pio.errors import BadInputError
from inference_pio.verify.neighbours import constant, producer, reader, tensor_of
from inference_pio.verify.tensors import read_rows
from inference_pio.verify.weights import InputRounding

ZERO_POINTS = {"MatMulIntegerToFloat": 128, "MatMulInteger": 0}


@dataclass(frozen=True)
class IntegerProduct:
    """A product's weight [N, K] in float32, read by rows, and how its input is rounded; a table has no input."""

    shape: tuple[int, int]
    read: Callable[[int, int], np.ndarray]
    rounding: InputRounding | None


def read_product(node: ir.Node) -> IntegerProduct:
    """The weight [K, N] of an integer product; raises BadInputError for a form that the exporter does not write."""
    quantize = producer(node.inputs[0], "QuantizeLinear")
    codes, zero = tensor_of(node.inputs[1]), None if quantize is None else constant(quantize.inputs[2])
    step = None if quantize is None else constant(quantize.inputs[1])
    fused = node.op_type == "MatMulIntegerToFloat"
    channels = None if fused else _scaled_after(node)
    scales = tensor_of(node.inputs[3]) if fused else None if channels is None else tensor_of(channels.inputs[1])
    known = quantize is not None and zero is not None and int(zero) == ZERO_POINTS[node.op_type]
    if quantize is None or codes is None or scales is None or step is None or not known:
        raise BadInputError(f"node '{node.name}' is an integer product of a form that the simulation does not know")
    divide = producer(quantize.inputs[0], "Div")
    last = node if channels is None else channels
    columns, exact = _exact(last, scaled=channels is not None or divide is not None)
    size = tuple(int(n) for n in codes.shape.numpy())

    def read(start: int, stop: int) -> np.ndarray:
        factors = read_rows(scales, start, stop)
        rows = read_rows(codes, 0, size[0])[:, start:stop].T.astype(np.float32) * factors[:, None]
        if exact is not None:
            rows[:, list(columns)] = read_rows(exact, 0, len(columns)).T[start:stop]
        return rows

    rounding = InputRounding(step=None if divide is not None else float(step), exact=columns)
    return IntegerProduct((size[1], size[0]), read, rounding)


def read_row_product(node: ir.Node) -> IntegerProduct:
    """The weight [N, K] of a product from the left, `MatMulInteger(codes, x)`, whose `x` has a scale per token."""
    channels, codes = _scaled_after(node), tensor_of(node.inputs[0])
    scales = None if channels is None else tensor_of(channels.inputs[1])
    if codes is None or scales is None:
        raise BadInputError(f"node '{node.name}' is an integer product of a form that the simulation does not know")
    return IntegerProduct(_size(codes), partial(_scaled_rows, codes, scales), InputRounding())


def read_row_table(node: ir.Node) -> IntegerProduct:
    """A table [N, K] that `Gather` takes int8 rows from, which are scaled afterwards."""
    channels, codes = _scaled_after(node), tensor_of(node.inputs[0])
    gather = None if channels is None else producer(channels.inputs[1], "Gather")
    scales = None if gather is None else tensor_of(gather.inputs[0])
    if codes is None or scales is None:
        raise BadInputError(f"node '{node.name}' looks rows up in a form that the simulation does not know")
    return IntegerProduct(_size(codes), partial(_scaled_rows, codes, scales), None)


def _scaled_rows(codes: ir.TensorProtocol, scales: ir.TensorProtocol, start: int, stop: int) -> np.ndarray:
    return read_rows(codes, start, stop).astype(np.float32) * read_rows(scales, start, stop)


def _scaled_after(node: ir.Node) -> ir.Node | None:
    """The `Mul` by scales behind `Cast(node)`."""
    cast = reader(node.outputs[0], "Cast")
    return None if cast is None else reader(cast.outputs[0], "Mul")


def _size(codes: ir.TensorProtocol) -> tuple[int, int]:
    rows, columns = (int(n) for n in codes.shape.numpy())
    return rows, columns


def _exact(node: ir.Node, scaled: bool) -> tuple[tuple[int, ...], ir.TensorProtocol | None]:
    """The columns that are multiplied in float32 and their weights [E, N]; none where nothing is added."""
    output = node.outputs[0]
    if scaled:
        scale = reader(output, "Mul")
        if scale is None:
            raise BadInputError(f"the product of node '{node.name}' is not scaled per row: export the artifact again")
        output = scale.outputs[0]
    add = reader(output, "Add")
    product = next((p for value in add.inputs if (p := producer(value, "MatMul"))), None) if add else None
    gather = producer(product.inputs[0], "Gather") if product else None
    indices = constant(gather.inputs[1]) if gather else None
    if product is None or indices is None:
        return (), None
    return tuple(int(i) for i in indices.reshape(-1)), tensor_of(product.inputs[1])
