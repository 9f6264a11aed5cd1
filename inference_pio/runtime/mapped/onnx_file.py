"""The parts of an ONNX file that prepacking touches: nodes, initializers, and where their bytes lie.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inference_pio.runtime.mapped.wire import bytes_field, fields, varint_field

MODEL_IR_VERSION, MODEL_GRAPH, MODEL_OPSET = 1, 7, 8
GRAPH_NODE, GRAPH_NAME, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 1, 2, 5, 11, 12
NODE_INPUT, NODE_OUTPUT, NODE_OP_TYPE = 1, 2, 4
TENSOR_NAME, TENSOR_EXTERNAL = 8, 13
ENTRY_KEY, ENTRY_VALUE = 1, 2
FLOAT, UINT8 = 1, 2
"""TensorProto.DataType."""


@dataclass(frozen=True)
class Node:
    """A node's operator, its inputs and outputs by name, and its message."""

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    raw: bytes


@dataclass(frozen=True)
class Tensor:
    """An initializer's name, its external data as key and value, and its message."""

    name: str
    external: Mapping[str, str]
    raw: bytes


@dataclass(frozen=True)
class OnnxFile:
    """A model file: what stands outside the graph, the graph's nodes and initializers, and the rest of the graph."""

    head: tuple[bytes, ...]
    version_and_opsets: tuple[bytes, ...]
    nodes: tuple[Node, ...]
    tensors: tuple[Tensor, ...]
    rest: tuple[bytes, ...]

    @classmethod
    def parse(cls, data: bytes) -> OnnxFile:
        """Raises ValueError for bytes that are no model."""
        model = list(fields(data))
        graph = next((f.value for f in model if f.number == MODEL_GRAPH), None)
        if not isinstance(graph, bytes):
            raise ValueError("the model has no graph")
        parts = list(fields(graph))
        return cls(
            head=tuple(f.raw for f in model if f.number != MODEL_GRAPH),
            version_and_opsets=tuple(f.raw for f in model if f.number in (MODEL_IR_VERSION, MODEL_OPSET)),
            nodes=tuple(_node(f.value) for f in parts if f.number == GRAPH_NODE and isinstance(f.value, bytes)),
            tensors=tuple(
                _tensor(f.value) for f in parts if f.number == GRAPH_INITIALIZER and isinstance(f.value, bytes)
            ),
            rest=tuple(f.raw for f in parts if f.number not in (GRAPH_NODE, GRAPH_INITIALIZER)),
        )

    def with_external(self, added: Mapping[str, list[tuple[str, str]]]) -> bytes:
        """The model's bytes with more external-data entries for the initializers named in `added`."""
        graph = b"".join(bytes_field(GRAPH_NODE, node.raw) for node in self.nodes)
        for tensor in self.tensors:
            entries = (
                bytes_field(TENSOR_EXTERNAL, bytes_field(ENTRY_KEY, key) + bytes_field(ENTRY_VALUE, value))
                for key, value in added.get(tensor.name, ())
            )
            graph += bytes_field(GRAPH_INITIALIZER, tensor.raw + b"".join(entries))
        return b"".join(self.head) + bytes_field(MODEL_GRAPH, graph + b"".join(self.rest))

    def alone(self, node: Node, input_types: Mapping[int, int]) -> bytes:
        """A model of one node and its initializers; `input_types` names data types other than float by position."""
        known = {tensor.name: tensor for tensor in self.tensors}
        graph = bytes_field(GRAPH_NODE, node.raw) + bytes_field(GRAPH_NAME, "one")
        for index, name in enumerate(node.inputs):
            if name in known:
                graph += bytes_field(GRAPH_INITIALIZER, known[name].raw)
            elif name:
                graph += bytes_field(GRAPH_INPUT, _value(name, input_types.get(index, FLOAT)))
        for name in node.outputs:
            graph += bytes_field(GRAPH_OUTPUT, _value(name, FLOAT))
        return b"".join(self.version_and_opsets) + bytes_field(MODEL_GRAPH, graph)


def _node(data: bytes) -> Node:
    parts = list(fields(data))
    op_type = next((f.text for f in parts if f.number == NODE_OP_TYPE), "")
    inputs = tuple(f.text for f in parts if f.number == NODE_INPUT)
    return Node(op_type, inputs, tuple(f.text for f in parts if f.number == NODE_OUTPUT), data)


def _tensor(data: bytes) -> Tensor:
    parts = list(fields(data))
    name = next((f.text for f in parts if f.number == TENSOR_NAME), "")
    external = {}
    for entry in (f.value for f in parts if f.number == TENSOR_EXTERNAL):
        assert isinstance(entry, bytes)
        words = {f.number: f.text for f in fields(entry)}
        external[words.get(ENTRY_KEY, "")] = words.get(ENTRY_VALUE, "")
    return Tensor(name, external, data)


def _value(name: str, data_type: int) -> bytes:
    """A ValueInfoProto of a tensor of any shape."""
    return bytes_field(1, name) + bytes_field(2, bytes_field(1, varint_field(1, data_type)))
