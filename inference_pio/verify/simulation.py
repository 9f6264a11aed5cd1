"""The artifact's weights as the original's layers would use them: dequantized, one tensor at a time.

Run through the reference model they give the simulation: the best that these quantized weights allow. An artifact
that is further from the original than its own simulation has a bug, and not just rounding.

The exporter notes in each initializer which checkpoint tensors it holds (metadata `inference_pio.sources`, a JSON
list of [tensor, rows] stacked along axis 0; with `inference_pio.interleaved` n, n tensors at a time give one row each
in turn), so no name or graph pattern has to be guessed here.
Kernel contracts: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md (MatMulNBits,
GatherBlockQuantized).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from inference_pio.artifact.manifest import TableFacts
from inference_pio.errors import BadInputError
from inference_pio.verify.cache_steps import read_cache_steps
from inference_pio.verify.expert_weights import (
    FLOAT_WEIGHTS,
    QUANTIZED_WEIGHTS,
    read_float_experts,
    read_quantized_experts,
)
from inference_pio.verify.integer_products import ZERO_POINTS, read_product, read_row_product, read_row_table
from inference_pio.verify.latent_weights import join_heads
from inference_pio.verify.static_products import read_static_product
from inference_pio.verify.stored_rows import (
    Blocks,
    StoredRows,
    float_rows,
    quantized_rows,
    refuse_zero_points,
    shape_of,
    whole_number,
)
from inference_pio.verify.token_table import read_table
from inference_pio.verify.weights import CacheSteps, InputRounding

SOURCES_KEY = "inference_pio.sources"
INTERLEAVED_KEY = "inference_pio.interleaved"
MICROSOFT = "com.microsoft"
SCALES = {"MatMulNBits": {2}, "GatherBlockQuantized": {2}, "QMoE": set(QUANTIZED_WEIGHTS.values())}
"""Inputs that hold scales, by operator."""
SIXTEEN_BITS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
INT8_ACTIVATIONS = 4
"""MatMulNBits' `accuracy_level` at which the kernel rounds activations to int8 per row and block."""


class ArtifactWeights:
    """Checkpoint tensors as an artifact's graphs hold them, and the table that its host reads; see `ModelWeights`.

    Only small parts of the files are in memory at any time. Raises BadInputError for a file that is no model, or one
    whose initializers do not say which tensors they hold.
    """

    def __init__(self, *models: Path, table: TableFacts | None = None) -> None:
        self._tables: dict[str, StoredRows] = {}
        self._others: dict[str, StoredRows] = {}
        self._cache_steps: dict[int, CacheSteps] = {}
        self._narrow = False
        for model in models:
            self._read(model)
        self._others |= join_heads(self._others)
        if table is not None:
            self._tables[table.tensor] = read_table(table, self._model.parent)

    def _read(self, model: Path) -> None:
        try:
            graph = ir.load(model).graph
        except (OSError, ValueError, TypeError, RuntimeError, DecodeError) as error:
            raise BadInputError(f"{model} is not a readable ONNX model: export the artifact again") from error
        self._model, known = model, len(self._tables) + len(self._others)
        for value in graph.initializers.values():
            self._add(value)
        self._cache_steps |= read_cache_steps(graph)
        self._narrow |= any(value.dtype in SIXTEEN_BITS for value in graph.inputs)
        if len(self._tables) + len(self._others) == known:
            raise BadInputError(f"{model} does not say which tensors its weights are: export the artifact again")

    @property
    def rounds_activations(self) -> bool:
        """True when activations, keys or values are rounded anywhere, if only to sixteen bits."""
        return bool(self.rounding or self._cache_steps or self._narrow)

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
        raise BadInputError(f"{self._model.parent} holds no weight called '{name}': export the artifact again")

    def _add(self, value: ir.Value) -> None:
        tensor = value.const_value
        if tensor is None or SOURCES_KEY not in tensor.metadata_props:
            return
        use = _use_of(value)
        if use is None:
            return
        place = self._tables if use.is_table else self._others
        end, stride = 0, _interleaved(tensor, self._model)
        for number, (name, rows) in enumerate(_sources(tensor, self._model)):
            if name in place:
                raise BadInputError(f"{self._model} holds '{name}' twice for one purpose: export the artifact again")
            turn = number % stride
            first = end - turn * rows + turn  # within the tensors that take turns
            place[name] = replace(use.stored, first=first, shape=(rows, *use.stored.shape[1:]), stride=stride)
            end += rows
        if end != use.stored.shape[0]:
            raise BadInputError(f"'{value.name}' in {self._model} has not the rows that its sources have: export again")


@dataclass(frozen=True)
class _Use:
    stored: StoredRows
    is_table: bool


def _use_of(value: ir.Value) -> _Use | None:
    """How an initializer is used, found from the node that reads it; None for scales, which belong to their data.

    One that a head and a lookup share is the head's, which says more.
    """
    for node, index in sorted(value.uses(), key=lambda use: _is_lookup(*use)):
        if node.domain == MICROSOFT and index in SCALES.get(node.op_type, ()):
            return None
        if node.op_type == "Cast":  # float16, widened at load
            readers = [*node.outputs[0].uses()]
            node, index = next((use for use in readers if _is_lookup(*use)), readers[0])
        kind = (node.domain, node.op_type)
        if kind == (MICROSOFT, "MatMulNBits") and index == 1:
            return _Use(_linear(node, value), is_table=False)
        if node.op_type in ZERO_POINTS:
            product = read_product(node) if index == 1 else read_row_product(node)
            return _Use(StoredRows(0, product.shape, product.read, product.rounding), is_table=False)
        if _is_lookup(node, index) and value.dtype == ir.DataType.INT8:
            table = read_row_table(node)
            return _Use(StoredRows(0, table.shape, table.read), is_table=True)
        if kind == ("", "DequantizeLinear"):
            if index != 0:
                return None
            static = read_static_product(node)
            return _Use(StoredRows(0, static.shape, static.read, static.rounding), is_table=False)
        if kind == ("", "Conv"):
            return _Use(float_rows(value, rows=shape_of(value)[0]), is_table=False)
        if kind == (MICROSOFT, "GatherBlockQuantized") and index == 0:
            return _Use(_table(node, value), is_table=True)
        if kind == (MICROSOFT, "QMoE") and index in QUANTIZED_WEIGHTS:
            return _Use(read_quantized_experts(node, index, value), is_table=False)
        if kind == (MICROSOFT, "MoE") and index in FLOAT_WEIGHTS:
            return _Use(read_float_experts(node, value), is_table=False)
        return _Use(float_rows(value), _is_lookup(node, index))
    return None


def _is_lookup(node: ir.Node, index: int) -> bool:
    return (node.op_type, index) == ("Gather", 0)


def _linear(node: ir.Node, data: ir.Value) -> StoredRows:
    refuse_zero_points(node, 3)
    block = whole_number(node, "block_size")
    layout = Blocks(shape_of(data)[0], whole_number(node, "K"), whole_number(node, "bits", 4), block)
    rounds = whole_number(node, "accuracy_level", 0) == INT8_ACTIVATIONS
    stored = quantized_rows(node, data, node.inputs[2], layout)
    return replace(stored, rounding=InputRounding(block) if rounds else None)


def _table(node: ir.Node, data: ir.Value) -> StoredRows:
    refuse_zero_points(node, 3)
    bits, shape = whole_number(node, "bits", 4), shape_of(data)
    layout = Blocks(shape[0], shape[-1] * 8 // bits, bits, whole_number(node, "block_size"))
    return quantized_rows(node, data, node.inputs[2], layout)


def _sources(tensor: ir.TensorProtocol, model: Path) -> list[tuple[str, int]]:
    try:
        return [(str(name), int(rows)) for name, rows in json.loads(tensor.metadata_props[SOURCES_KEY])]
    except (ValueError, TypeError) as error:
        raise BadInputError(
            f"'{tensor.name}' in {model} has unreadable '{SOURCES_KEY}': export the artifact again"
        ) from error


def _interleaved(tensor: ir.TensorProtocol, model: Path) -> int:
    """How many of the sources take turns, a row each."""
    text = tensor.metadata_props.get(INTERLEAVED_KEY, "1")
    turns, rows = int(text) if text.isdecimal() else 0, [rows for _, rows in _sources(tensor, model)]
    if turns < 1 or len(rows) % turns or any(rows[i] != rows[i - i % turns] for i in range(len(rows))):
        raise BadInputError(f"'{tensor.name}' in {model} has unreadable '{INTERLEAVED_KEY}': export the artifact again")
    return turns
