"""A lowered graph computes in sixteen bits: weights, activations and cache, but for what was asked to stay float32.

Every node is visited in order. Weights of the format fp32 (a router's) keep their product in float32, and so does what
follows it until an operator that has sixteen bits alone; Casts stand in between. The logits are widened, and what
chooses candidates among them reads the wide ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.narrow import add_narrowed
from inference_pio.graphs.rewrites.rewrite import LoweringContext, attribute
from inference_pio.graphs.weights import holds_rows, stored_rows

FLOAT = ir.DataType.FLOAT
HALF_ALONE = {
    "GroupQueryAttention",
    "MatMulNBits",
    "MoE",
    "QMoE",
    "RotaryEmbedding",
    "SkipSimplifiedLayerNormalization",
}
"""Operators whose inputs are narrowed where one is not yet."""
NO_FLOATS = {"Shape", "Range", "Greater", "LessOrEqual", "Less", "Equal", "NonZero", "ArgMax"}
"""Operators whose outputs are never floats."""
JOBS = {"MatMulNBits": (1, 2), "GatherBlockQuantized": (0, 2), "QMoE": (2, 3, 5, 6)}
"""Inputs with integers and with their scales, which are made together."""


@dataclass(frozen=True)
class Match:
    """Any node."""

    node: ir.Node


@dataclass
class State:
    """Float values so far, and what was made of initializers and of values in the other width."""

    half: set[ir.Value] = field(default_factory=set)
    full: set[ir.Value] = field(default_factory=set)
    made: dict[ir.Value, ir.Value] = field(default_factory=dict)


def pattern(node: ir.Node) -> Match | None:
    """Every node."""
    return Match(node)


def check(match: Match, context: LoweringContext) -> None:
    """Nothing to refuse."""


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    node, dtype = match.node, context.compute
    state = _state(graph, dtype)
    if node.op_type == "Cast":
        _visit_cast(graph, state, node, dtype)
        return
    wide = node.op_type not in HALF_ALONE and _stays_wide(node, state, context)
    for index, value in enumerate(node.inputs):
        if value is not None:
            node.replace_input_with(index, _input(graph, state, node, index, value, wide, dtype))
    _mark_outputs(graph, state, node, wide, dtype)


def _state(graph: ir.Graph, dtype: ir.DataType) -> State:
    """Made at the first node: the cache is narrow, other float inputs are narrowed, temperatures stay."""
    if "half_precision" in graph.meta:
        return graph.meta["half_precision"]
    state = graph.meta["half_precision"] = State()
    for value in [value for value in graph.inputs if value.dtype == FLOAT]:
        if str(value.name).startswith("past_key_values."):
            value.type = ir.TensorType(dtype)
            state.half.add(value)
        elif value.name == "candidate_temperatures":
            state.full.add(value)
        else:
            b = GraphBuilder(graph)
            users = list(value.uses())
            with b.before(graph[0]):
                narrow = b.op("Cast", [value], {"to": int(dtype)}, name=f"{value.name}/narrow")
            for use in users:
                use.node.replace_input_with(use.idx, narrow)
            state.half.add(narrow)
    return state


def _visit_cast(graph: ir.Graph, state: State, node: ir.Node, dtype: ir.DataType) -> None:
    """What widened float16 is not wanted any more; integers become wide floats."""
    source, result = node.inputs[0], node.outputs[0]
    if attribute(node, "to") != FLOAT or source is None:
        return
    if source.is_initializer() and source.dtype == ir.DataType.FLOAT16:
        result.replace_all_uses_with(_weight(graph, state, source, dtype))
    elif source in state.half:
        result.replace_all_uses_with(source)
    else:
        state.full.add(result)
        return
    graph.remove(node, safe=True)


def _stays_wide(node: ir.Node, state: State, context: LoweringContext) -> bool:
    """Whether a node reads a float32 value, or a weight that was asked to stay one; a narrow weight outweighs both."""
    if any(value is not None and value in state.made and value.is_initializer() for value in node.inputs):
        return False
    for value in node.inputs:
        if value in state.full:
            return True
        if value is not None and value.dtype == FLOAT and holds_rows(value, rank=2):
            return context.format_of(stored_rows(value).parts[0][0]).bits == 32
    return False


def _input(
    graph: ir.Graph, state: State, node: ir.Node, index: int, value: ir.Value, wide: bool, dtype: ir.DataType
) -> ir.Value:
    """What a node reads instead of `value`."""
    if value.is_initializer() and not value.is_graph_input():
        floats = value.dtype in (FLOAT, ir.DataType.FLOAT16)
        if (floats and not wide) or index in JOBS.get(node.op_type, ()):
            return _weight(graph, state, value, dtype)
        return value
    if wide and value in state.half:
        return _cast(graph, state, node, value, FLOAT)
    if not wide and value in state.full:
        return _cast(graph, state, node, value, dtype)
    return value


def _mark_outputs(graph: ir.Graph, state: State, node: ir.Node, wide: bool, dtype: ir.DataType) -> None:
    floats = (FLOAT, dtype)
    reads = (v is not None and (v in state.half or v in state.full or v.dtype in floats) for v in node.inputs)
    if node.op_type in NO_FLOATS or not any(reads):
        return
    for number, value in enumerate(node.outputs):
        if node.op_type == "TopK" and number == 1:
            continue
        (state.full if wide else state.half).add(value)
        if not wide and value.is_graph_output():
            if value.name == "logits":
                _widen_output(graph, state, node, value, dtype)
            else:
                value.type = ir.TensorType(dtype)


def _widen_output(graph: ir.Graph, state: State, node: ir.Node, narrow: ir.Value, dtype: ir.DataType) -> None:
    users = list(narrow.uses())
    cast = ir.node("Cast", [narrow], {"to": int(FLOAT)}, name=f"{node.name}/wide")
    graph.insert_after(node, cast)
    (wide,) = cast.outputs
    for use in users:
        use.node.replace_input_with(use.idx, wide)
    wide.name, wide.shape, wide.type = narrow.name, narrow.shape, ir.TensorType(FLOAT)
    narrow.name, narrow.type = f"{wide.name}/narrow", ir.TensorType(dtype)
    graph.outputs[list(graph.outputs).index(narrow)] = wide
    state.full.add(wide)


def _weight(graph: ir.Graph, state: State, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """The narrow form of an initializer, which takes its place among the graph's."""
    if value not in state.made:
        made = add_narrowed(graph, value, dtype)
        state.made |= {value: made, made: made}
    return state.made[value]


def _cast(graph: ir.Graph, state: State, node: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """`value` in the other width, cast once."""
    if value not in state.made:
        b = GraphBuilder(graph)
        with b.before(node):
            state.made[value] = b.op("Cast", [value], {"to": int(dtype)}, name=f"{value.name}/cast")
    return state.made[value]
