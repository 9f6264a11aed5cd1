"""Layers of a canonical graph, each run by itself with weights that come and go.

What a layer reads from outside is an input, its weights too, so that layers of one kind share a session and one layer's
weights are in memory at a time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from inference_pio.calibration.layer_graphs import SCOPE, LayerGraph, Layers
from inference_pio.graphs.builder import IR_VERSION
from inference_pio.runtime.backends.ort_session import import_onnxruntime

_TENSOR_LAYER = re.compile(r"\.(?:layers|blocks)\.\d+\.")
_BOOLEAN = frozenset({"And", "Or", "Not", "LessOrEqual", "Less", "Greater", "GreaterOrEqual", "Equal"})


@dataclass(frozen=True)
class Prelude:
    """A session of nodes before the layers, what it reads and what it gives."""

    session: Any
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]

    def run(self, known: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The outputs by name for inputs by name."""
        feed = {_name(value): known[str(value.name)] for value in self.inputs}
        return dict(zip([_name(v) for v in self.outputs], self.session.run(None, feed), strict=True))


class Runner:
    """Runs graphs cut out of a model; sessions are kept for layers of the same kind."""

    def __init__(self, layers: Layers, opset_imports: Mapping[str, int], threads: int) -> None:
        self._layers, self._opsets, self._threads = layers, dict(opset_imports), threads
        self._sessions: dict[tuple[object, ...], Any] = {}
        self._prelude: Prelude | None = None
        self._counted: tuple[int, dict[str, np.ndarray]] | None = None

    def shared_values(self, length: int, positions: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The values that all layers share (masks, rotary angles) for one unpadded row of `length` tokens.

        `positions` int64 [3, length] are those of a row with images; by default tokens are counted.
        """
        counted = positions is None
        if counted and self._counted is not None and self._counted[0] == length:
            return self._counted[1]
        ids = np.zeros((1, length), np.int64)
        known = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": positions}
        if self._prelude is None:
            self._prelude = self.prelude(self._layers.shared, [])
        rank = next((len(v.shape) for v in self._prelude.inputs if v.name == "position_ids" and v.shape), 2)
        places = np.arange(length) if positions is None else positions
        known["position_ids"] = places[None] if rank == 2 else np.broadcast_to(places, (3, length))[:, None]
        found = self._prelude.run(known)
        if counted:
            self._counted = length, found
        return found

    def prelude(self, wanted: Sequence[ir.Value], weights: Sequence[str]) -> Prelude:
        """What stands before the layers, as far as the values `wanted` need it; tensors called `weights` are inputs."""
        needed = set(wanted)
        nodes: list[ir.Node] = []
        for node in reversed(self._layers.prelude):
            if any(value in needed for value in node.outputs):
                nodes.insert(0, node)
                needed |= {value for value in node.inputs if value is not None}
        own = {value for node in nodes for value in node.outputs}
        read = dict.fromkeys(v for node in nodes for v in node.inputs if v is not None and v not in own)
        outer = [v for v in read if v.is_graph_input() or str(v.name) in weights]
        return Prelude(self.open(_model(nodes, outer, list(wanted), self._opsets)), tuple(outer), tuple(wanted))

    def session(self, layer: LayerGraph, wanted: Sequence[ir.Value]) -> Any:
        """A session of a layer that gives its output and then the values `wanted`."""
        names = {_name(v) for v in wanted}
        key = (*(_signature(node) for node in layer.nodes), *sorted(names))
        if key not in self._sessions:
            self._sessions[key] = self.open(self.model(layer, wanted))
        return self._sessions[key]

    def model(self, layer: LayerGraph, wanted: Sequence[ir.Value]) -> ir.Model:
        """A layer as a model of its own that gives its output and then the values `wanted`."""
        added = () if layer.experts is None else layer.experts.outputs
        addend = () if layer.addend is None else (layer.addend,)
        inputs = [layer.hidden, *layer.shared, *layer.caches, *addend, *layer.weights, *added]
        return _model(layer.nodes, inputs, [layer.output, *wanted], self._opsets)

    def open(self, model: ir.Model) -> Any:
        """A session of a model that is held in memory."""
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False
        data = ir.to_proto(model).SerializeToString()
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def feed_of(
    layer: LayerGraph,
    hidden_1SC: np.ndarray,
    shared: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    experts_1SC: np.ndarray | None = None,
    images_1SC: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The inputs of one run of a layer over one row without a past; `weights` by checkpoint tensor name.

    `experts_1SC` is what the layer's experts give and `images_1SC` what images add, nothing by default.
    """
    feed = {_name(layer.hidden, layer): hidden_1SC}
    feed |= {_name(value): shared[_name(value)] for value in layer.shared}
    if layer.experts is not None:
        added = np.zeros_like(hidden_1SC) if experts_1SC is None else experts_1SC
        feed[_name(layer.experts.outputs[0])] = added
    if layer.addend is not None:
        nothing = np.zeros((1, 1, hidden_1SC.shape[2]), np.float32)
        feed[_name(layer.addend)] = nothing if images_1SC is None else images_1SC
    for cache in layer.caches:
        assert cache.shape is not None
        _, heads, _, size = cache.shape
        feed[_name(cache)] = np.zeros((1, int(str(heads)), 0, int(str(size))), np.float32)
    return feed | {_name(value): weights[str(value.name)] for value in layer.weights}


def _model(
    nodes: Sequence[ir.Node], inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], opsets: Mapping[str, int]
) -> ir.Model:
    """A copy of `nodes` as a model of its own."""
    copies: dict[ir.Value, ir.Value] = {}
    initializers = []
    for value in inputs:
        copies[value] = ir.Value(name=_input_name(value, inputs[0]), type=_type(value))
    made = []
    for node in nodes:
        for value in node.inputs:
            if value is not None and value not in copies and value.const_value is not None:
                copies[value] = ir.Value(name=str(value.name), const_value=value.const_value)
                initializers.append(copies[value])
        copied = [None if value is None else copies[value] for value in node.inputs]
        new = ir.Node(node.domain, node.op_type, copied, node.attributes.values(), num_outputs=len(node.outputs))
        for old, value in zip(node.outputs, new.outputs, strict=True):
            value.name = _name(old)
            copies[old] = value
        made.append(new)
    for value in outputs:
        copies[value].type = _type(value)
    graph = ir.Graph(
        [copies[value] for value in inputs],
        [copies[value] for value in outputs],
        nodes=made,
        initializers=initializers,
        opset_imports=dict(opsets),
        name="layer",
    )
    return ir.Model(graph, ir_version=IR_VERSION)


def _name(value: ir.Value, layer: LayerGraph | None = None) -> str:
    """A value's name without its layer's number, so that it is the same in every layer."""
    if layer is not None and value is layer.hidden:
        return "hidden"
    plain = SCOPE.sub("layer/", str(value.name))
    plain = _TENSOR_LAYER.sub(".layer.", plain)
    plain = re.sub(r"^deepstack_embeds\.\d+", "deepstack_embeds", plain)
    plain = re.sub(r"^past_key_values\.\d+\.", "past.", plain)
    return re.sub(r"^present\.\d+\.", "present.", plain)


def _type(value: ir.Value) -> ir.TypeProtocol:
    """The builder leaves intermediate values untyped; between parts of a decoder they are float or masks."""
    if value.type is not None:
        return value.type
    producer = value.producer()
    is_mask = producer is not None and producer.op_type in _BOOLEAN
    return ir.TensorType(ir.DataType.BOOL if is_mask else ir.DataType.FLOAT)


def _input_name(value: ir.Value, first: ir.Value) -> str:
    """The first input of a layer is its hidden state, whoever made it."""
    producer = value.producer()
    is_hidden = value is first and producer is not None
    return "hidden" if is_hidden else _name(value)


def _signature(node: ir.Node) -> tuple[object, ...]:
    inputs = tuple(None if v is None else _name(v) for v in node.inputs[1:])
    attributes = tuple(sorted((name, str(a.value)) for name, a in node.attributes.items()))
    return (node.domain, node.op_type, inputs, attributes)
