"""The key/value cache of GroupQueryAttention becomes int8, with one step per head and channel.

The steps move out of the cache: keys and values are divided by theirs before they enter, queries and the result are
multiplied, so that the cache holds plain integers. Dividing before the rotary embedding is exact because the two
channels of a rotary pair share a step. New keys and values are rounded before anything attends to them, which makes a
token's cache entries independent of where chunks end.

The operator's own path over an int8 cache reads it directly and is fast for a few new tokens, but loses to float
products for many. There the new integers are scattered into the shared buffer, in place, and what stands in it is
turned into floats for the float operator, which appends nothing when it gets no keys.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from inference_pio.errors import BadInputError
from inference_pio.graphs.builder import MICROSOFT, GraphBuilder
from inference_pio.graphs.kv_scales import KvScales, check_scales
from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError, attribute, replace
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.graphs.weights import ComputeRows, Recipe

FEW_TOKENS = 16
"""Up to so many new tokens the int8 path of the operator is the faster one (measured at 2,048 tokens of context)."""
QUANTIZED = {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR", "kv_cache_bit_width": 8}
CACHE_INPUT = re.compile(r"past_key_values\.(\d+)\.key")


@dataclass(frozen=True)
class Match:
    """One fused attention over a float cache, and its layer."""

    node: ir.Node
    layer: int


@dataclass(frozen=True)
class Shared:
    """What all layers of a graph share: the choice of the path, and lengths as int64 [1] (`past_rows`: [B])."""

    few: ir.Value
    past_1: ir.Value
    past_rows: ir.Value
    total_1: ir.Value


@dataclass(frozen=True)
class Constants:
    """Constants of the outer graph that a branch reads."""

    unit: ir.Value
    heads: ir.Value
    start: ir.Value
    token_axis: ir.Value
    length_axis: ir.Value


def pattern(node: ir.Node) -> Match | None:
    """`GroupQueryAttention(q, k, v, past_key, past_value, lengths, tables)` over the graph's own cache inputs."""
    if (node.op_type, node.domain) != ("GroupQueryAttention", MICROSOFT) or len(node.inputs) != 9:
        return None
    past = node.inputs[3]
    name = CACHE_INPUT.fullmatch(past.name or "") if past is not None and past.is_graph_input() else None
    return Match(node, int(name[1])) if name and past is not None and past.dtype == ir.DataType.FLOAT else None


def check(match: Match, context: LoweringContext) -> None:
    if context.kv_scales is None:
        raise NoMatchError("the recipe keeps the cache in float32")
    if not attribute(match.node, "do_rotary", 0):
        raise NoMatchError("keys are rotated outside the operator")
    if match.layer not in context.kv_scales:
        raise BadInputError(
            f"calibration gives no key/value scales for layer {match.layer}: calibrate this model again"
        )
    check_scales(context.kv_scales[match.layer], match.layer, context.spec.kv_heads, context.spec.head_dim)


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    assert context.kv_scales is not None
    node, heads = match.node, attribute(match.node, "num_heads")
    b = GraphBuilder(graph)
    shared = _shared(b, node)
    to_q, to_k, to_v, to_y = _factors(b, match.layer, context.kv_scales[match.layer], heads)
    q_BSN, k_BSN, v_BSN, past_key, past_value = node.inputs[:5]
    with b.before(node), b.scope(node.name or f"layers.{match.layer}"):
        new = [b.op("Mul", [x, factor]) for x, factor in ((q_BSN, to_q), (k_BSN, to_k), (v_BSN, to_v))]
        inputs = [*new, past_key, past_value, *node.inputs[5:]]
        branches = {
            "then_branch": _few(node, inputs, b.const([1.0], np.float32)),
            "else_branch": _many(node, inputs, shared, _constants(b, context.spec), context.spec.kv_heads),
        }
        y_BSN, *present = b.ops("If", [shared.few], branches, 3, name="cache")
        outputs = [b.op("Mul", [y_BSN, to_y], name="output"), *present]
    for old, value in zip(node.outputs, outputs, strict=True):
        replace(old, value)
    for cache in (past_key, past_value, *present):
        cache.type = ir.TensorType(ir.DataType.INT8)
    graph.remove(node, safe=True)


def _few(node: ir.Node, inputs: Sequence[ir.Value | None], one: ir.Value) -> ir.Graph:
    """The operator itself over the int8 cache, with `one` as its step."""
    inner = GraphBuilder()
    with inner.scope(f"{node.name}/few"):
        attributes = {name: value.value for name, value in node.attributes.items()} | QUANTIZED
        inputs = [*inputs, None, None, None, one, one]
        outputs = inner.ops("GroupQueryAttention", inputs, attributes, 3, domain=MICROSOFT)
    return _branch(inner, outputs)


def _many(
    node: ir.Node, inputs: Sequence[ir.Value | None], shared: Shared, constants: Constants, kv_heads: int
) -> ir.Graph:
    """Rotate, round and scatter the new tokens, then attend in float32 to everything up to `total_1`."""
    q_BSN, k_BSN, v_BSN, past_key, past_value, last_B, total, *tables = inputs
    inner, present, floats = GraphBuilder(), [], []
    with inner.scope(f"{node.name}/many"):
        rotary = {"num_heads": kv_heads, "interleaved": 0}
        rotated = inner.op("RotaryEmbedding", [k_BSN, shared.past_1, *tables], rotary, domain=MICROSOFT)
        for x_BSN, past in ((rotated, past_key), (v_BSN, past_value)):
            codes = inner.op("QuantizeLinear", [x_BSN, constants.unit], {"output_dtype": int(ir.DataType.INT8)})
            heads_BSKD = inner.op("Reshape", [codes, constants.heads])
            new_BKSD = inner.op("Transpose", [heads_BSKD], {"perm": [0, 2, 1, 3]})
            present.append(inner.op("TensorScatter", [past, new_BKSD, shared.past_rows], {"axis": 2}))
            held_BKTD = inner.op("Slice", [present[-1], constants.start, shared.total_1, constants.length_axis])
            floats.append(inner.op("Cast", [held_BKTD], {"to": int(ir.DataType.FLOAT)}))
        nothing = inner.op("Slice", [k_BSN, constants.start, constants.start, constants.token_axis])
        attributes = {name: value.value for name, value in node.attributes.items()}
        inputs = [q_BSN, nothing, nothing, *floats, last_B, total, *tables]
        y_BSN = inner.op("GroupQueryAttention", inputs, attributes, domain=MICROSOFT)
    return _branch(inner, [y_BSN, *present])


def _branch(inner: GraphBuilder, outputs: Sequence[ir.Value]) -> ir.Graph:
    """The graph of a branch, with its outputs: float32 attention and the two int8 caches."""
    for value, dtype in zip(outputs, (ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.INT8), strict=True):
        value.type = ir.TensorType(dtype)
        inner.graph.outputs.append(value)
    inner.graph.name = str(outputs[0].name).rsplit("/", 1)[0]
    return inner.graph


def _constants(b: GraphBuilder, spec: DecoderSpec) -> Constants:
    heads = b.const([0, 0, spec.kv_heads, spec.head_dim])
    return Constants(b.const(1.0, np.float32), heads, b.const([0]), b.const([1]), b.const([2]))


def _shared(b: GraphBuilder, node: ir.Node) -> Shared:
    if "int8_cache_lengths" not in b.graph.meta:
        q_BSN, total = node.inputs[0], node.inputs[6]
        with b.before(node), b.scope("int8_cache"):
            new_1 = b.op("Shape", [q_BSN], {"start": 1, "end": 2}, name="new")
            rows_1 = b.op("Shape", [q_BSN], {"start": 0, "end": 1}, name="rows")
            wide = b.op("Cast", [total], {"to": int(ir.DataType.INT64)})
            total_1 = b.op("Unsqueeze", [wide, b.const([0])], name="total")
            past_1 = b.op("Sub", [total_1, new_1], name="past")
            past_rows = b.op("Expand", [past_1, rows_1], name="past_of_rows")
            few = b.op("Squeeze", [b.op("LessOrEqual", [new_1, b.const([FEW_TOKENS])])], name="few")
        b.graph.meta["int8_cache_lengths"] = Shared(few, past_1, past_rows, total_1)
    return b.graph.meta["int8_cache_lengths"]


def _factors(b: GraphBuilder, layer: int, scales: KvScales, heads: int) -> list[ir.Value]:
    """Factors float32 [heads * head_dim] of queries, keys, values and the result."""
    key, value = (np.where(steps == 0, 1, steps).astype(np.float32) for steps in (scales.key, scales.value))
    share = heads // len(key)
    arrays = {
        "query": np.repeat(key, share, axis=0),
        "key": np.float32(1) / key,
        "value": np.float32(1) / value,
        "result": np.repeat(value, share, axis=0),
    }
    return [
        b.lazy(
            f"layers.{layer}.int8_cache.{name}_factor",
            ir.DataType.FLOAT,
            (array.size,),
            Recipe(ComputeRows(array.size, (), _Part(array.reshape(-1)))),
        )
        for name, array in arrays.items()
    ]


@dataclass(frozen=True, eq=False)
class _Part:
    """Reads a part of an array; equal only to itself, so that it can be a key."""

    values: np.ndarray

    def __call__(self, start: int, stop: int) -> np.ndarray:
        return self.values[start:stop]
