"""Rows of initializers as float32, whatever form they are stored in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from inference_pio.errors import BadInputError
from inference_pio.verify.tensors import read_rows
from inference_pio.verify.weights import InputRounding


@dataclass(frozen=True)
class StoredRows:
    """Rows of one initializer that hold one checkpoint tensor.

    `first` is where they begin, and `stride` how far one lies behind the other; `read` gives any of the initializer's
    rows as float32; `rounding` is set where the activations that meet them are rounded; `shape` is the checkpoint
    tensor's.
    """

    first: int
    shape: tuple[int, ...]
    read: Callable[[int, int], np.ndarray]
    rounding: InputRounding | None = None
    stride: int = 1

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of the checkpoint tensor."""
        if self.stride == 1:
            return self.read(self.first + start, self.first + stop)
        last = self.first + (stop - 1) * self.stride + 1
        return np.ascontiguousarray(self.read(self.first + start * self.stride, last)[:: self.stride])


@dataclass(frozen=True)
class Blocks:
    """A matrix [rows, columns] of `bits` wide integers, with a scale per row and block."""

    rows: int
    columns: int
    bits: int
    block: int


def float_rows(value: ir.Value, rows: int | None = None) -> StoredRows:
    """An initializer of floats; with `rows` its elements are seen as a matrix of so many."""
    tensor, shape = value.const_value, shape_of(value)
    assert tensor is not None
    if rows is not None:
        shape = (rows, int(np.prod(shape)) // rows)
    return StoredRows(
        first=0,
        shape=shape,
        read=lambda start, stop: np.ascontiguousarray(read_rows(tensor, start, stop, rows), dtype=np.float32),
    )


def quantized_rows(node: ir.Node, data: ir.Value, scales: ir.Value | None, layout: Blocks) -> StoredRows:
    """An initializer of integers and its scales; raises BadInputError for a form that the exporter does not write."""
    if scales is None or scales.const_value is None or data.const_value is None or layout.bits not in (4, 8):
        raise BadInputError(f"node '{node.name}' has weights in a form that the simulation does not know")
    values, factors = data.const_value, scales.const_value
    blocks = -(-layout.columns // layout.block)
    if int(np.prod(shape_of(scales))) != layout.rows * blocks:
        raise BadInputError(f"node '{node.name}' has scales of the wrong size: export the artifact again")

    def read(start: int, stop: int) -> np.ndarray:
        scale = read_rows(factors, start, stop, layout.rows).reshape(stop - start, blocks)
        packed = read_rows(values, start, stop, layout.rows).reshape(stop - start, -1)
        return dequantize(packed, scale, layout.bits, layout.block, layout.columns)

    return StoredRows(first=0, shape=(layout.rows, layout.columns), read=read)


def dequantize(packed: np.ndarray, scales: np.ndarray, bits: int, block: int, columns: int) -> np.ndarray:
    """Values `(q - zero point) * scale` as float32 [rows, columns].

    `packed` uint8 [rows, bytes], two 4-bit values to a byte with the first in the low half; `scales` [rows, blocks];
    the zero point is half of the range; columns beyond `columns` are padding.
    """
    if bits == 4:
        unpacked = np.empty((packed.shape[0], packed.shape[1] * 2), dtype=np.uint8)
        unpacked[:, 0::2], unpacked[:, 1::2] = packed & 15, packed >> 4
        packed = unpacked
    values = packed[:, :columns].astype(np.float32)
    values -= np.float32(1 << (bits - 1))
    values *= np.repeat(scales.astype(np.float32), block, axis=1)[:, :columns]
    return values


def refuse_zero_points(node: ir.Node, *inputs: int) -> None:
    """Raise BadInputError when a node has explicit zero points, or other inputs that the simulation leaves out."""
    if any(index < len(node.inputs) and node.inputs[index] is not None for index in inputs):
        raise BadInputError(f"node '{node.name}' has explicit zero points, which the simulation does not know")


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """The shape of an initializer."""
    assert value.const_value is not None
    return tuple(int(size) for size in value.const_value.shape.numpy())


def whole_number(node: ir.Node, name: str, default: int | None = None) -> int:
    """An attribute of a node; raises BadInputError when it is missing and there is no default."""
    attribute = node.attributes.get(name)
    if attribute is not None:
        return int(attribute.value)
    if default is None:
        raise BadInputError(f"node '{node.name}' lacks the attribute '{name}': export the artifact again")
    return default
