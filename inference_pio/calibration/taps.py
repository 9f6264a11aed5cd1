"""Where a layer is observed: the inputs of its linear layers, and what stands before them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from inference_pio.calibration.layer_graphs import LayerGraph
from inference_pio.graphs.rewrites.rewrite import attribute, match_linear, producer
from inference_pio.graphs.weights import holds_rows, stored_rows


@dataclass(frozen=True)
class Absorber:
    """What can take a factor per channel of a tap: tensors whose rows make these channels.

    Channel j of the tap is made by row `rows[j]` of each of `tensors` (a norm's weight, or a linear layer's weight and
    bias). Several channels may share a row: query heads that share a value head.
    """

    tensors: tuple[str, ...]
    rows: np.ndarray


@dataclass(frozen=True)
class Tap:
    """One value [1, S, K] that linear layers read: their weights [N, K] by tensor name, and its absorber if any."""

    value: ir.Value
    linears: tuple[str, ...]
    columns: int
    absorber: Absorber | None

    @property
    def name(self) -> str:
        return self.linears[0]


@dataclass(frozen=True)
class CacheTaps:
    """Keys before their rotation and values as they enter the cache, both [1, S, G * D]."""

    key: ir.Value
    value: ir.Value
    kv_heads: int


def find_taps(layer: LayerGraph) -> list[Tap]:
    """The taps of a layer in the order of its nodes."""
    readers: dict[ir.Value, list[str]] = {}
    columns: dict[ir.Value, int] = {}
    for node in layer.nodes:
        match = match_linear(node)
        if match is not None:
            rows = stored_rows(match.weight)
            readers.setdefault(match.x, []).append(rows.parts[0][0])
            columns[match.x] = rows.tail[0]
    return [Tap(x, tuple(names), columns[x], _absorber(x, len(names), columns[x])) for x, names in readers.items()]


def find_cache_taps(layer: LayerGraph) -> CacheTaps | None:
    """What a layer stores in its cache, where it is plain grouped-query attention."""
    attention = next((n for n in layer.nodes if (n.op_type, n.domain) == ("Attention", "")), None)
    rotation = producer(attention.inputs[1], "RotaryEmbedding") if attention else None
    if attention is None or rotation is None or rotation.inputs[0] is None or attention.inputs[2] is None:
        return None
    return CacheTaps(rotation.inputs[0], attention.inputs[2], int(attribute(attention, "kv_num_heads")))


def _absorber(x: ir.Value, linears: int, columns: int) -> Absorber | None:
    node = x.producer()
    if node is None or len(list(x.uses())) != linears:
        return None  # somebody else reads the value too
    identity = np.arange(columns)
    if node.op_type == "RMSNormalization":
        weight = node.inputs[1]
        return Absorber(_tensors(weight), identity) if holds_rows(weight, rank=1) else None
    if node.op_type == "Mul":  # of a gate and a linear layer
        tensors = next((found for v in node.inputs if (found := _linear_tensors(v))), ())
        return Absorber(tensors, identity) if tensors else None
    if (node.op_type, node.domain) == ("Attention", ""):
        tensors = _linear_tensors(node.inputs[2])
        heads, kv_heads = int(attribute(node, "q_num_heads")), int(attribute(node, "kv_num_heads"))
        size = columns // heads
        rows = (np.arange(heads) // (heads // kv_heads))[:, None] * size + np.arange(size)
        return Absorber(tensors, rows.reshape(-1)) if tensors else None
    return None


def _linear_tensors(value: ir.Value | None) -> tuple[str, ...]:
    """Weight and bias of the linear layer that makes `value` and nothing else."""
    node = None if value is None else value.producer()
    if node is not None and node.op_type == "Add":
        node = next((p for v in node.inputs if (p := producer(v, "MatMul"))), None)
    match = match_linear(node) if node is not None else None
    if match is None or match.output is not value or value is None or len(list(value.uses())) != 1:
        return ()
    return (*_tensors(match.weight), *_tensors(match.bias))


def _tensors(value: ir.Value | None) -> tuple[str, ...]:
    return () if value is None else tuple(name for name, _ in stored_rows(value).parts)
