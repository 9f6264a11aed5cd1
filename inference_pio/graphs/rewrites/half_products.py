"""Products, attention and cache of a lowered block in float16; everything else stays float32.

For strongly typed networks, in which the types of the graph are the precision. Norms, rotary embedding, softmax outside
of Attention, the activations of an MLP and the residual stream keep float32: they cost next to nothing beside the
products, and a residual stream has channels beyond what float16 adds up well.

A product of floats is written as TensorRT wants it for sums in float32: both sides float16, widened, multiplied, and
the result narrowed again; it is one kernel over float16 (github.com/NVIDIA/TensorRT-Model-Connect/pull/1158). A product
of integers has float16 around it through its scales; a convolution of integers, as the head is, stays between float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.narrow import add_narrowed
from inference_pio.graphs.rewrites.rewrite import LoweringContext, producer
from inference_pio.graphs.source import tensor_of
from inference_pio.graphs.weights import holds_rows, stored_rows

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
NARROW_INPUTS = ("past_key_values.", "attention_bias")
"""What the names of inputs begin with that are float16."""
FUSED = {"Attention": 4, "TensorScatter": 2}
"""Operators that compute in float16 themselves, and how many of their inputs, from the first on, are floats."""
MOVES = {"Concat", "Expand", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that only move data, whose result has the type of what they are given; so has Gather."""


@dataclass
class State:
    """float16 values so far, those in the other width by the one that they were made of, and narrow weights."""

    half: set[ir.Value] = field(default_factory=set)
    casts: dict[ir.Value, ir.Value] = field(default_factory=dict)
    weights: dict[ir.Value, ir.Value] = field(default_factory=dict)


def pattern(node: ir.Node) -> ir.Node | None:
    """Every node."""
    return node


def check(match: ir.Node, context: LoweringContext) -> None:
    """Nothing to refuse."""


def rewrite(graph: ir.Graph, match: ir.Node, context: LoweringContext) -> None:
    state, node = _state(graph), match
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        _visit_quantization(graph, state, node)
    elif node.op_type == "MatMul":
        _visit_product(graph, state, node, context)
    elif node.op_type in FUSED:
        for index in range(min(FUSED[node.op_type], len(node.inputs))):
            _read(graph, state, node, index, half=True)
        _mark(state, node)
    elif node.op_type in MOVES or node.op_type == "Gather":
        _visit_move(graph, state, node, context)
    elif node.op_type != "Shape":
        _widen_inputs(graph, state, node)
    for value in list(node.outputs):
        if value.is_graph_output():
            _fit_output(graph, state, value)


def _state(graph: ir.Graph) -> State:
    """Made at the first node: the cache is float16, and so is the bias of fused attention."""
    if "half_products" not in graph.meta:
        state = graph.meta["half_products"] = State()
        for value in graph.inputs:
            if str(value.name).startswith(NARROW_INPUTS):
                value.type = ir.TensorType(HALF)
                state.half.add(value)
    found: State = graph.meta["half_products"]
    return found


def _visit_quantization(graph: ir.Graph, state: State, node: ir.Node) -> None:
    """Scales have the type of what is rounded, or of what comes back; both sides of an activation have one step."""
    dequantize = node if node.op_type == "DequantizeLinear" else next(iter(node.outputs[0].consumers()))
    if any(reader.op_type != "MatMul" for reader in dequantize.outputs[0].consumers()):
        _widen_inputs(graph, state, node)
        return
    data, scale = node.inputs[:2]
    assert data is not None and scale is not None and scale.const_value is not None
    if data.is_initializer():
        for index, value in enumerate((data, scale)):
            node.replace_input_with(index, _weight(graph, state, value))
    else:
        step = np.maximum(scale.const_value.numpy().astype(np.float16), np.finfo(np.float16).smallest_subnormal)
        wide = node is not dequantize and data not in state.half
        node.replace_input_with(1, GraphBuilder(graph).const(step, np.float32 if wide else np.float16))
    if node is dequantize:
        _mark(state, node)


def _visit_product(graph: ir.Graph, state: State, node: ir.Node, context: LoweringContext) -> None:
    x, weight = node.inputs
    assert x is not None and weight is not None
    if producer(weight, "DequantizeLinear") is not None:
        _mark(state, node)
        return
    if not _is_narrow(weight, context):
        _widen_inputs(graph, state, node)
        return
    for index in range(2):
        narrow = _read(graph, state, node, index, half=True)
        node.replace_input_with(index, _cast(graph, state, node, narrow, FLOAT))
    (wide,) = node.outputs
    users = list(wide.uses())
    result = _cast_behind(graph, wide, HALF)
    state.half.add(result)
    for use in users:
        use.node.replace_input_with(use.idx, result)
    if wide.is_graph_output():
        _take_place(graph, wide, result, HALF)
        _fit_output(graph, state, result)


def _visit_move(graph: ir.Graph, state: State, node: ir.Node, context: LoweringContext) -> None:
    """Narrow where all of its data is; a weight on its way into products is moved as it is stored."""
    indices = range(len(node.inputs)) if node.op_type == "Concat" else range(1)
    data = [value for index in indices if (value := node.inputs[index]) is not None]
    products = all(reader.op_type == "MatMul" for reader in node.outputs[0].consumers())
    if node.op_type == "Transpose" and data[0].is_initializer() and products and _is_narrow(data[0], context):
        node.replace_input_with(0, _weight(graph, state, data[0]))
        _mark(state, node)
    elif all(value in state.half for value in data):
        _mark(state, node)
    else:
        _widen_inputs(graph, state, node)


def _is_narrow(weight: ir.Value, context: LoweringContext) -> bool:
    """Whether a product with `weight` is in float16: not where its format is float32."""
    transpose = producer(weight, "Transpose")
    source = weight if transpose is None else transpose.inputs[0]
    if source is None or not source.is_initializer() or not any(holds_rows(source, rank) for rank in (2, 3)):
        return True
    return context.format_of(tensor_of(stored_rows(source))).bits < 32


def _read(graph: ir.Graph, state: State, node: ir.Node, index: int, half: bool) -> ir.Value:
    """Let a node read the float16 (or float32) form of an input, which is returned."""
    value = node.inputs[index]
    assert value is not None
    if half and value.is_initializer() and not value.is_graph_input():
        value = _weight(graph, state, value)
    elif half != (value in state.half):
        value = _cast(graph, state, node, value, HALF if half else FLOAT)
    node.replace_input_with(index, value)
    return value


def _widen_inputs(graph: ir.Graph, state: State, node: ir.Node) -> None:
    for index, value in enumerate(node.inputs):
        if value in state.half:
            _read(graph, state, node, index, half=False)


def _mark(state: State, node: ir.Node) -> None:
    for value in node.outputs:
        state.half.add(value)
        if value.shape is not None:
            value.type = ir.TensorType(HALF)


def _fit_output(graph: ir.Graph, state: State, value: ir.Value) -> None:
    """Caches go out in float16, everything else in float32."""
    if value in state.half and not str(value.name).startswith("present."):
        _take_place(graph, value, _cast_behind(graph, value, FLOAT), FLOAT)


def _take_place(graph: ir.Graph, old: ir.Value, new: ir.Value, dtype: ir.DataType) -> None:
    """Make `new`, which is `dtype`, the graph output that `old` was."""
    other = FLOAT if dtype == HALF else HALF
    name, old.name, old.type = old.name, f"{old.name}/{other.name.lower()}", ir.TensorType(other)
    new.name, new.shape, new.type = name, old.shape, ir.TensorType(dtype)
    graph.outputs[list(graph.outputs).index(old)] = new


def _cast_behind(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """`value` as `dtype`, right behind the node that makes it."""
    node = value.producer()
    assert node is not None
    cast = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{value.name}/{dtype.name.lower()}")
    cast.outputs[0].name = cast.name
    graph.insert_after(node, cast)
    return cast.outputs[0]


def _weight(graph: ir.Graph, state: State, value: ir.Value) -> ir.Value:
    """The float16 form of an initializer, or integers whose scales are float16; it joins the graph's."""
    if value not in state.weights:
        state.weights[value] = add_narrowed(graph, value, HALF)
    return state.weights[value]


def _cast(graph: ir.Graph, state: State, node: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """`value` as `dtype`, the other width, cast once."""
    if value not in state.casts:
        b = GraphBuilder(graph)
        with b.before(node):
            state.casts[value] = b.op("Cast", [value], {"to": int(dtype)}, name=f"{value.name}/{dtype.name.lower()}")
        if dtype == HALF:
            state.half.add(state.casts[value])
    return state.casts[value]
