"""A model file as the rules see it: nodes with their surroundings, inferred types and shapes, constants by name.

Weights in external files are never read as a whole: a constant is read where a rule asks for it and it is small.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from inference_pio.graphs.lint.element_types import spread
from inference_pio.graphs.lint.loading import external_file
from inference_pio.graphs.lint.names import separate_siblings, subgraphs

SMALL = 1 << 22
"""Elements of the largest constant whose values are looked at: scales of every row of a token table fit."""
Shape = tuple[int | None, ...]


@dataclass
class Scope:
    """The graph of a model with its nested graphs, or the body of a function: `root`; names are unique in it."""

    model: Any
    path: Path
    root: Any
    nodes: list[Any]
    function: str = ""
    initializers: dict[str, Any] = field(default_factory=dict)
    types: dict[str, Any] = field(default_factory=dict)
    """TensorProto types of values, with shapes, by name."""

    def __post_init__(self) -> None:
        known = {name: tensor.elem_type for name, tensor in self.types.items() if tensor.elem_type}
        known |= {name: tensor.data_type for name, tensor in self.initializers.items()}
        self._element_types = spread(self.nodes, known)
        self._producers = {name: node for node in self.nodes for name in node.output if name}
        self._consumers: dict[str, list[Any]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self._consumers[name].append(node)

    @property
    def main(self) -> bool:
        """Whether this is the model's graph and no function."""
        return not self.function

    @property
    def opset(self) -> int:
        """The version of the standard operators that the file imports, 0 where it imports none."""
        imports = self.root.opset_import if self.function else self.model.opset_import
        return max((entry.version for entry in imports if entry.domain in ("", "ai.onnx")), default=0)

    def producer(self, name: str) -> Any:
        """The node whose output is called `name`, None for inputs and initializers."""
        return self._producers.get(name)

    def consumers(self, name: str) -> list[Any]:
        """The nodes that read `name`."""
        return self._consumers.get(name, [])

    def dtype(self, name: str) -> str | None:
        """The element type of a value as TensorProto spells it, such as "FLOAT"; None where it is not known."""
        number = self._element_types.get(name)
        if not number:
            return None
        known = onnx.TensorProto.DataType.values()
        return onnx.TensorProto.DataType.Name(number) if number in known else f"type {number}"

    def shape(self, name: str) -> Shape | None:
        """The dimensions of a value, None for the free ones; None where not even the rank is known."""
        tensor = self.initializers.get(name)
        if tensor is not None:
            return tuple(tensor.dims)
        tensor_type = self.types.get(name)
        if tensor_type is None or not tensor_type.HasField("shape"):
            return None
        return tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor_type.shape.dim)

    def constants(self) -> list[str]:
        """The names of all initializers and of what Constant nodes give."""
        made = [name for node in self.nodes if node.op_type == "Constant" for name in node.output]
        return list(dict.fromkeys((*self.initializers, *made)))

    def is_constant(self, name: str) -> bool:
        """Whether a value is an initializer or comes from a Constant."""
        node = self.producer(name)
        return name in self.initializers or (node is not None and node.op_type == "Constant")

    def constant(self, name: str) -> np.ndarray | None:
        """The values of a small constant; None for others, and for one whose bytes cannot be read."""
        tensor, node = self.initializers.get(name), self.producer(name)
        if tensor is None and node is not None and node.op_type == "Constant":
            given = {attribute.name: attribute for attribute in node.attribute}
            if "value" not in given:
                return next((np.asarray(onnx.helper.get_attribute_value(a)) for a in given.values()), None)
            tensor = given["value"].t
        if tensor is None or math.prod(tensor.dims) > SMALL:
            return None
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if external and not external_file(tensor, self.path).is_good:
            return None
        try:
            return onnx.numpy_helper.to_array(tensor, base_dir=str(self.path.parent))
        except (ValueError, OSError, TypeError, KeyError):
            return None

    def attribute(self, node: Any, name: str, default: Any) -> Any:
        """The value of a node's attribute; `default` when it is absent or of another type."""
        found = next((a for a in node.attribute if a.name == name), None)
        try:
            value = None if found is None else onnx.helper.get_attribute_value(found)
        except ValueError:
            return default
        return value if default is None or isinstance(value, type(default)) else default


def given(node: Any, index: int) -> str:
    """The name of a node's input, "" where it is left out."""
    return node.input[index] if index < len(node.input) else ""


def label(node: Any) -> str:
    """What a node is called in a message: its name, or that of its first output."""
    return node.name or next(iter(node.output), "") or node.op_type


def scopes(model: Any, path: Path) -> Iterator[Scope]:
    """The model's graph, then its functions; names of the model that sibling graphs share are changed."""
    for root in (model.graph, *model.functions):
        separate_siblings(root)
    nodes: list[Any] = []
    initializers: dict[str, Any] = {}
    types: dict[str, Any] = {}
    for graph in _graphs(model.graph):
        nodes += graph.node
        initializers |= {tensor.name: tensor for tensor in graph.initializer}
        for value in (*graph.value_info, *graph.input, *graph.output):
            if value.type.HasField("tensor_type"):
                types[value.name] = value.type.tensor_type
    yield Scope(model, path, model.graph, nodes, "", initializers, types)
    for function in model.functions:
        inner = [node for graph in _graphs(function) for node in graph.node]
        yield Scope(model, path, function, inner, function.name)


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph, or a function, and the graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for nested in subgraphs(node):
            yield from _graphs(nested)
