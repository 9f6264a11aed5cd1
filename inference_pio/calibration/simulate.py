"""A layer as the artifact will compute it: the canonical layer with its inputs rounded before every linear layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from inference_pio.calibration.choices import TapChoice
from inference_pio.calibration.layer import LayerResult
from inference_pio.calibration.layer_graphs import LayerGraph
from inference_pio.calibration.layer_runs import Runner
from inference_pio.calibration.products import exact_columns
from inference_pio.graphs.formats import Activations, WeightFormat


def rounded_layer(
    runner: Runner, layer: LayerGraph, choices: list[TapChoice], result: LayerResult, steps: Mapping[str, float]
) -> Any:
    """A session as `Runner.session` gives, for rounded weights, with the inputs of linear layers rounded.

    `steps` are those of products by head, by the names of their weights.
    """
    model = runner.model(layer, [])
    readers = _products(model.graph, [name for name, chosen in result.formats.items() if chosen.quantized])
    by_tensor = {name: choice for choice in choices for name in choice.tap.linears}
    for name, node in readers.items():
        x = node.inputs[0]
        assert x is not None
        rounded = _round(model.graph, node, x, by_tensor[name], result.formats[name])
        node.replace_input_with(0, rounded)
    for name, node in _products(model.graph, steps).items():
        assert node.inputs[0] is not None
        node.replace_input_with(0, _round_fixed(_Adder(model.graph, node), node.inputs[0], steps[name]))
    return runner.open(model)


def _products(graph: ir.Graph, weights: Iterable[str]) -> dict[str, ir.Node]:
    """The MatMul that multiplies by each weight, as it stands or transposed."""
    found = {}
    plain = {_plain(name): name for name in weights}
    for node in graph:
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        transpose = None if weight is None else weight.producer()
        weight = transpose.inputs[0] if transpose is not None and transpose.op_type == "Transpose" else weight
        if weight is not None and str(weight.name) in plain:
            found[plain[str(weight.name)]] = node
    return found


def _plain(tensor: str) -> str:
    head, _, tail = tensor.partition(".layers.")
    return f"{head}.layer.{tail.partition('.')[2]}"


def _round(graph: ir.Graph, before: ir.Node, x: ir.Value, choice: TapChoice, chosen: WeightFormat) -> ir.Value:
    if chosen.activations is Activations.EXACT:
        return x
    columns = choice.tap.columns
    add = _Adder(graph, before)
    mask = np.ones(columns, np.float32)
    exact = exact_columns(choice.exact, chosen)
    mask[list(exact)] = 0
    inner = add("Mul", x, add.constant(mask)) if exact else x
    if chosen.activations is Activations.STATIC:
        assert choice.step is not None
        rounded = _round_fixed(add, inner, choice.step)
    else:
        block = columns if chosen.integer_product else chosen.block(columns)
        if columns % block:
            return x  # the kernel pads the last block; its share of the error is not worth a Pad here
        split = add("Reshape", inner, add.constant(np.array([1, -1, columns // block, block])))
        largest = add("ReduceMax", add("Abs", split), add.constant(np.array([-1])))
        largest = add("Max", largest, add.constant(np.float32(1e-30)))
        levels = add("Round", add("Mul", add("Div", split, largest), add.constant(np.float32(127))))
        rounded = add("Mul", levels, add("Div", largest, add.constant(np.float32(127))))
        rounded = add("Reshape", rounded, add.constant(np.array([1, -1, columns])))
    return add("Add", rounded, add("Mul", x, add.constant(1 - mask))) if exact else rounded


def _round_fixed(add: _Adder, x: ir.Value, step: float) -> ir.Value:
    size = add.constant(np.float32(step))
    low, high = add.constant(np.float32(-128)), add.constant(np.float32(127))
    return add("Mul", add("Clip", add("Round", add("Div", x, size)), low, high), size)


class _Adder:
    """Adds nodes before a node."""

    def __init__(self, graph: ir.Graph, before: ir.Node) -> None:
        self._graph, self._before = graph, before

    def __call__(self, op_type: str, *inputs: ir.Value) -> ir.Value:
        node = ir.Node("", op_type, inputs, num_outputs=1)
        self._graph.insert_before(self._before, node)
        return node.outputs[0]

    def constant(self, value: Any) -> ir.Value:
        node = ir.Node("", "Constant", [], [ir.AttrTensor("value", ir.tensor(np.asarray(value)))], num_outputs=1)
        self._graph.insert_before(self._before, node)
        return node.outputs[0]
