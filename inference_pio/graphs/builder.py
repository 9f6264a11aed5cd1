"""A thin builder over onnx_ir: ops, constants and lazy weights with readable, scoped names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir

from inference_pio.graphs.weights import Recipe, Rows, StoreRows, lazy_initializer
from inference_pio.version import __version__

OPSET = 24
IR_VERSION = 12
MICROSOFT = "com.microsoft"

Dim = int | str


class GraphBuilder:
    """Collects nodes and initializers of one graph; names follow the scopes they were made in."""

    def __init__(self, graph: ir.Graph | None = None) -> None:
        self.graph = graph or ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="main")
        self._scopes: list[str] = []
        self._names = {n for n in self.graph.initializers} | {
            v.name for node in self.graph for v in node.outputs if v.name
        }
        self._insert_before: ir.Node | None = None
        self._functions: dict[ir.OperatorIdentifier, ir.Function] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names made inside with `name/`."""
        self._scopes.append(name)
        yield
        self._scopes.pop()

    @contextmanager
    def before(self, node: ir.Node) -> Iterator[None]:
        """Insert the nodes made inside in front of `node`; used by rewrites."""
        self._insert_before = node
        yield
        self._insert_before = None

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[Dim]) -> ir.Value:
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self.graph.inputs.append(value)
        return value

    def shared_input(self, name: str, dtype: ir.DataType, shape: Sequence[Dim]) -> ir.Value:
        """The input called `name`, added at the first call."""
        found = next((value for value in self.graph.inputs if value.name == name), None)
        return found or self.input(name, dtype, shape)

    def output(self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[Dim]) -> None:
        value.name, value.shape, value.type = name, ir.Shape(shape), ir.TensorType(dtype)
        self.graph.outputs.append(value)

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, object] | None = None,
        *,
        domain: str = "",
        name: str | None = None,
    ) -> ir.Value:
        """Append a node with one output and return that output."""
        return self.ops(op_type, inputs, attributes, 1, domain=domain, name=name)[0]

    def ops(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, object] | None,
        outputs: int,
        *,
        domain: str = "",
        name: str | None = None,
    ) -> Sequence[ir.Value]:
        """Append a node with several outputs and return them."""
        node = ir.node(op_type, inputs, dict(attributes or {}), domain=domain, num_outputs=outputs)
        node.name = self._unique("/".join([*self._scopes, name or op_type]))
        for index, value in enumerate(node.outputs):
            value.name = node.name if outputs == 1 else f"{node.name}:{index}"
        if domain:
            self.graph.opset_imports.setdefault(domain, 1)
        if self._insert_before is not None:
            self.graph.insert_before(self._insert_before, node)
        else:
            self.graph.append(node)
        return node.outputs

    def const(self, value: object, dtype: type = np.int64) -> ir.Value:
        """A small constant stored inside the model file; equal constants are stored once."""
        array: np.ndarray = np.array(value, dtype=dtype)
        name = f"const_{array.dtype}_{'x'.join(map(str, array.shape)) or 'scalar'}_" + "_".join(
            str(x).replace("-", "m") for x in array.reshape(-1)[:8]
        )
        if array.size > 8:
            name = self._unique(name)
        if name not in self.graph.initializers:
            self._register(ir.Value(name=name, const_value=ir.tensor(array, name=name)), array.shape, array.dtype)
        return self.graph.initializers[name]

    def functions(self, functions: Iterable[ir.Function]) -> None:
        """Make functions part of the model, once each."""
        self._functions |= {function.identifier(): function for function in functions}

    def model(self) -> ir.Model:
        """The graph and copies of its functions as a model: what a lowering does to them stays with it."""
        facts = {"ir_version": IR_VERSION, "producer_name": "inference-pio", "producer_version": __version__}
        return ir.Model(self.graph, functions=[function.clone() for function in self._functions.values()], **facts)

    def weight(self, name: str, rows: Rows) -> ir.Value:
        """An initializer that holds checkpoint rows as float32."""
        return self.lazy(name, ir.DataType.FLOAT, rows.shape, Recipe(StoreRows(rows), sources=rows.parts))

    def lazy(self, name: str, dtype: ir.DataType, shape: tuple[int, ...], recipe: Recipe) -> ir.Value:
        """An initializer made by `recipe`; the name must be new."""
        if name in self.graph.initializers:
            raise ValueError(f"initializer {name} exists already")
        value = lazy_initializer(name, dtype, shape, recipe)
        self.graph.register_initializer(value)
        return value

    def _register(self, value: ir.Value, shape: tuple[int, ...], dtype: np.dtype) -> None:
        value.shape = ir.Shape(shape)
        value.type = ir.TensorType(ir.DataType.from_numpy(dtype))
        self.graph.register_initializer(value)

    def _unique(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self._names:
            count += 1
            candidate = f"{name}_{count}"
        self._names.add(candidate)
        return candidate
