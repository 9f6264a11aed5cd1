"""The artifact's weights as the original's layers would use them: dequantized, one tensor at a time.

Run through the reference model they give the simulation: the best that these quantized weights allow. An artifact
that is further from the original than its own simulation has a bug, and not just rounding.

The exporter notes in each initializer which checkpoint tensors it holds (metadata `inference_pio.sources`, a JSON
list of [tensor, rows] stacked along axis 0), so no name or graph pattern has to be guessed here.
Kernel contracts: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md (MatMulNBits,
GatherBlockQuantized).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from inference_pio.errors import BadInputError
from inference_pio.verify.cache_steps import read_cache_steps
from inference_pio.verify.integer_products import read_product
from inference_pio.verify.tensors import read_rows
from inference_pio.verify.weights import CacheSteps, InputRounding

SOURCES_KEY = "inference_pio.sources"
INT8_ACTIVATIONS = 4
"""MatMulNBits' `accuracy_level` at which the kernel rounds activations to int8 per row and block."""


@dataclass(frozen=True)
class StoredRows:
    """Rows of one initializer that hold one checkpoint tensor.

    `first` is where they begin; `read` gives any of the initializer's rows as float32; `rounding` is set where the
    activations that meet them are rounded; `shape` is the checkpoint tensor's.
    """

    first: int
    shape: tuple[int, ...]
    read: Callable[[int, int], np.ndarray]
    rounding: InputRounding | None = None

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self.read(self.first + start, self.first + stop)


class ArtifactWeights:
    """Checkpoint tensors as an artifact's `model.onnx` holds them; see `weights.ModelWeights`.

    Only small parts of the file are in memory at any time. Raises BadInputError for a file that is no model, or one
    whose initializers do not say which tensors they hold.
    """

    def __init__(self, model: Path) -> None:
        try:
            graph = ir.load(model).graph
        except (OSError, ValueError, TypeError, RuntimeError, DecodeError) as error:
            raise BadInputError(f"{model} is not a readable ONNX model: export the artifact again") from error
        self._model = model
        self._tables: dict[str, StoredRows] = {}
        self._others: dict[str, StoredRows] = {}
        for value in graph.initializers.values():
            self._add(value)
        self._cache_steps = read_cache_steps(graph)
        if not self._others and not self._tables:
            raise BadInputError(f"{model} does not say which tensors its weights are: export the artifact again")

    @property
    def rounds_activations(self) -> bool:
        """True when activations, keys or values are rounded anywhere."""
        return bool(self.rounding or self._cache_steps)

    @property
    def rounding(self) -> dict[str, InputRounding]:
        """Linear layers (by tensor name) whose input is rounded, and how."""
        return {name: s.rounding for name, s in self._others.items() if s.rounding}

    def shape(self, name: str) -> tuple[int, ...] | None:
        stored = self._others.get(name) or self._tables.get(name)
        return None if stored is None else stored.shape

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return self._find(name, self._others, self._tables).rows(start, stop)

    def embedding_rows(self, name: str, ids: np.ndarray) -> np.ndarray:
        stored = self._find(name, self._tables, self._others)
        return np.concatenate([stored.rows(int(i), int(i) + 1) for i in ids])

    def input_rounding(self, name: str) -> InputRounding | None:
        stored = self._others.get(name)
        return None if stored is None else stored.rounding

    def cache_steps(self, layer: int) -> CacheSteps | None:
        return self._cache_steps.get(layer)

    def _find(self, name: str, *places: dict[str, StoredRows]) -> StoredRows:
        for place in places:
            if name in place:
                return place[name]
        raise BadInputError(f"{self._model} holds no weight called '{name}': export the artifact again")

    def _add(self, value: ir.Value) -> None:
        tensor = value.const_value
        if tensor is None or SOURCES_KEY not in tensor.metadata_props:
            return
        use = _use_of(value)
        if use is None:
            return
        place = self._tables if use.is_table else self._others
        first = 0
        for name, rows in _sources(tensor, self._model):
            if name in place:
                raise BadInputError(f"{self._model} holds '{name}' twice for one purpose: export the artifact again")
            shape = (rows, *use.stored.shape[1:])
            place[name] = replace(use.stored, first=first, shape=shape)
            first += rows
        if first != use.stored.shape[0]:
            raise BadInputError(f"'{value.name}' in {self._model} has not the rows that its sources have: export again")


@dataclass(frozen=True)
class _Use:
    stored: StoredRows
    is_table: bool


def _use_of(value: ir.Value) -> _Use | None:
    """How an initializer is used, found from the node that reads it; None for scales, which belong to their data."""
    for node, index in value.uses():
        kind = (node.domain, node.op_type, index)
        if kind == ("com.microsoft", "MatMulNBits", 1):
            block = _int(node, "block_size")
            rounds = _int(node, "accuracy_level", 0) == INT8_ACTIVATIONS
            stored = _quantized(node, value, node.inputs[2], _int(node, "bits", 4), _int(node, "K"), zero_input=3)
            return _Use(replace(stored, rounding=InputRounding(block) if rounds else None), is_table=False)
        if kind == ("com.microsoft", "MatMulIntegerToFloat", 1):
            product = read_product(node)
            return _Use(StoredRows(0, product.shape, product.read, product.rounding), is_table=False)
        if kind == ("com.microsoft", "GatherBlockQuantized", 0):
            bits = _int(node, "bits", 4)
            columns = _shape(value)[-1] * 8 // bits
            return _Use(_quantized(node, value, node.inputs[2], bits, columns, zero_input=3), is_table=True)
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized") and index == 2:
            return None
        is_table = (node.op_type, index) == ("Gather", 0)
        if node.op_type == "Cast":
            is_table = any((n.op_type, i) == ("Gather", 0) for n, i in node.outputs[0].uses())
        return _Use(_float(value), is_table)
    return None


def _float(value: ir.Value) -> StoredRows:
    tensor = value.const_value
    assert tensor is not None
    return StoredRows(
        first=0,
        shape=_shape(value),
        read=lambda start, stop: np.ascontiguousarray(read_rows(tensor, start, stop), dtype=np.float32),
    )


def _quantized(
    node: ir.Node, data: ir.Value, scales: ir.Value | None, bits: int, columns: int, zero_input: int
) -> StoredRows:
    if len(node.inputs) > zero_input and node.inputs[zero_input] is not None:
        raise BadInputError(f"node '{node.name}' has explicit zero points, which the simulation does not know")
    if scales is None or scales.const_value is None or data.const_value is None or bits not in (4, 8):
        raise BadInputError(f"node '{node.name}' has weights in a form that the simulation does not know")
    block, rows = _int(node, "block_size"), _shape(data)[0]
    values, factors = data.const_value, scales.const_value
    blocks = -(-columns // block)
    flat = len(_shape(scales)) == 1
    if int(np.prod(_shape(scales))) != rows * blocks:
        raise BadInputError(f"node '{node.name}' has scales of the wrong size: export the artifact again")

    def read(start: int, stop: int) -> np.ndarray:
        if flat:
            scale = read_rows(factors, start * blocks, stop * blocks)
        else:
            scale = read_rows(factors, start, stop)
        packed = read_rows(values, start, stop).reshape(stop - start, -1)
        return dequantize(packed, scale.reshape(stop - start, blocks), bits, block, columns)

    return StoredRows(first=0, shape=(rows, columns), read=read)


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


def _sources(tensor: ir.TensorProtocol, model: Path) -> list[tuple[str, int]]:
    try:
        return [(str(name), int(rows)) for name, rows in json.loads(tensor.metadata_props[SOURCES_KEY])]
    except (ValueError, TypeError) as error:
        raise BadInputError(
            f"'{tensor.name}' in {model} has unreadable '{SOURCES_KEY}': export the artifact again"
        ) from error


def _shape(value: ir.Value) -> tuple[int, ...]:
    assert value.const_value is not None
    return tuple(int(size) for size in value.const_value.shape.numpy())


def _int(node: ir.Node, name: str, default: int | None = None) -> int:
    attribute = node.attributes.get(name)
    if attribute is not None:
        return int(attribute.value)
    if default is None:
        raise BadInputError(f"node '{node.name}' lacks the attribute '{name}': export the artifact again")
    return default
