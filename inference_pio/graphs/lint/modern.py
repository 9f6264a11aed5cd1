"""What TensorRT 10.15's ONNX parser accepts, after `docs/operators.md` of that release."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from inference_pio.graphs.lint import common, quantization
from inference_pio.graphs.lint.rule import Dialect, Objection, Rule
from inference_pio.graphs.lint.scope import Scope, given

TYPES = common.operator_types("modern.json")
KNOWN_TYPES = frozenset().union(*TYPES.values()) | {"DOUBLE"}
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
CONSTANT = {
    "CumSum": {1: "axis"},
    "OneHot": {1: "depth"},
    "Squeeze": {1: "axes"},
    "Unsqueeze": {1: "axes"},
    **{f"Reduce{name}": {1: "axes"} for name in REDUCTIONS},
}
MOST_SELECTED = 3840
FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16")
ARITHMETIC = "Add Sub Mul Div Pow Max Min Mean Sum PRelu Equal Greater GreaterOrEqual Less LessOrEqual"
SAME_TYPE: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(f"{ARITHMETIC} MatMul Gemm Conv ConvTranspose Concat Where Einsum".split(), ()),
    **dict.fromkeys(("RMSNormalization", "LayerNormalization", "RotaryEmbedding"), (0, 1, 2)),
    "Attention": (0, 1, 2, 3),
    "TensorScatter": (0, 1),
}
"""Operators whose operands of floats have one type, and which of their inputs these are (none named: all)."""


def _attention(scope: Scope, node: Any) -> str | None:
    if any(node.input[4:]):
        return "takes no past or lengths: keep the cache with TensorScatter and mask it"
    if any(node.output[1:]):
        return "has the output Y alone: drop the others"
    if scope.attribute(node, "softcap", 0.0) or scope.attribute(node, "qk_matmul_output_mode", 0):
        return "takes no softcap and no qk_matmul_output_mode: decompose it"
    ranks = [common.rank_of(scope, node, index) for index in range(4)]
    return None if all(rank in (None, 4) for rank in ranks) else "takes Q, K, V and mask of four dimensions: reshape"


def _tensor_scatter(scope: Scope, node: Any) -> str | None:
    if any(common.rank_of(scope, node, index) not in (None, 4) for index in (0, 1)):
        return "takes a cache and an update of four dimensions: reshape them"
    if scope.attribute(node, "axis", -2) != -2:
        return "writes along axis -2 only: transpose the cache"
    if scope.producer(given(node, 0)) is not None or scope.is_constant(given(node, 0)):
        return "takes an input of the graph as its cache: pass the cache in"
    shape = scope.shape(given(node, 0))
    if scope.main and shape is not None and shape[2:3] == (None,):
        return "takes a cache whose length is fixed: give axis 2 a number, and read the rows in use with Slice"
    if scope.main and not {value.name for value in scope.model.graph.output}.intersection(node.output):
        return "gives an output of the graph, which shares the cache's memory: make its result one"
    return None


def _rotary(scope: Scope, node: Any) -> str | None:
    dtype = scope.dtype(given(node, 3))
    return None if dtype in (None, "INT64") else f"takes position_ids of INT64, not {dtype}: cast them"


def _layer_norm(scope: Scope, node: Any) -> str | None:
    return "has the output Y alone: drop the others" if any(node.output[1:]) else None


def _scatter(scope: Scope, node: Any) -> str | None:
    reduction = scope.attribute(node, "reduction", b"none").decode("utf-8", "replace")
    return None if reduction == "none" else f"with reduction '{reduction}' is not supported: add outside of it"


def _top_k(scope: Scope, node: Any) -> str | None:
    if scope.attribute(node, "sorted", 1) != 1:
        return "returns sorted values only: set sorted to 1"
    values = scope.constant(given(node, 1))
    if values is not None and values.size == 1 and int(values.reshape(-1)[0]) >= MOST_SELECTED:
        return f"takes fewer than {MOST_SELECTED} values: select in steps"
    return None


def same_types(scope: Scope) -> Iterator[Objection]:
    """Networks are strongly typed: nothing is cast in silence, and a table says which operands go together."""
    for node in scope.nodes:
        indices = SAME_TYPE.get(common.key(node), ())
        operands = [name for index, name in enumerate(node.input) if name and (not indices or index in indices)]
        found = {dtype for name in operands if (dtype := scope.dtype(name)) in FLOATS}
        if common.key(node) in SAME_TYPE and len(found) > 1:
            yield node, f"{node.op_type} of {' and '.join(sorted(found))}: cast to one of them"


def scale_types(scope: Scope) -> Iterator[Objection]:
    """A scale has the type of what is quantized, or of what comes back, and is positive."""
    for node in quantization.pairs(scope):
        scale, data = scope.dtype(node.input[1]), scope.dtype(node.input[0])
        if node.op_type == quantization.QUANTIZE and None not in (scale, data) and scale != data:
            yield node, f"rounds {data} with a scale of {scale}: give the scale that type"
        values = scope.constant(node.input[1])
        if values is not None and not np.all(values.astype(np.float64) > 0):
            yield node, "has a scale that is not positive: calibrate again"
        if node.op_type == quantization.DEQUANTIZE and scope.attribute(node, "output_dtype", 0):
            yield node, "has output_dtype, which must be the type of the zero point: give the scale the type wanted"


def blocks(scope: Scope) -> Iterator[Objection]:
    """Scales per block or per channel are for constants; activations have one scale."""
    for node in quantization.pairs(scope):
        scale = scope.shape(node.input[1])
        several = scale is not None and any(size not in (None, 1) for size in scale)
        if several and not quantization.comes_from_constant(scope, node.input[0]):
            yield node, "has several scales for an activation: use one for the whole tensor"


_OPERATORS = "onnx-tensorrt 10.15, docs/operators.md"
_CACHE = "https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/operators/KVCacheUpdate.html"
_TYPES = "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html"
_STRONG = "https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/operators (T1, T2 of each operator)"
_SCALES = "https://docs.nvidia.com/deeplearning/tensorrt/operators/docs/Quantize.html; QuantDequantLinearHelper"
_PLACES = (
    "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html"
)

DIALECT = Dialect(
    name="modern",
    runtime="TensorRT 10.15 and newer",
    rules=(
        Rule("opset", _OPERATORS, common.opset(9, 24, "convert it")),
        Rule("operator", _OPERATORS, common.known_operators(TYPES, "lower it to operators that TensorRT 10.15 has")),
        Rule("operand-type", _OPERATORS, common.operand_types(TYPES, {"DOUBLE": "FLOAT"}, "supported")),
        Rule("value-type", _OPERATORS, common.value_types(KNOWN_TYPES, "use another type")),
        Rule("same-type", _STRONG, same_types),
        Rule("uint8", _OPERATORS, common.uint8_at_the_border),
        Rule("constant-input", _OPERATORS, common.constant_inputs(CONSTANT)),
        Rule("attention", _OPERATORS, common.each("Attention", _attention)),
        Rule("tensor-scatter", f"{_OPERATORS}; {_CACHE}", common.each("TensorScatter", _tensor_scatter)),
        Rule("rotary-positions", _OPERATORS, common.each("RotaryEmbedding", _rotary)),
        Rule("layer-norm", _OPERATORS, common.each("LayerNormalization", _layer_norm)),
        Rule("scatter-reduction", _OPERATORS, common.each("ScatterND", _scatter)),
        Rule("top-k", _OPERATORS, common.each("TopK", _top_k)),
        Rule("external-data", _OPERATORS, common.external_data),
        Rule("zero-point", _OPERATORS, quantization.zero_points),
        Rule("scale-type", _SCALES, scale_types),
        Rule("activation-scale", _TYPES, blocks),
        Rule("one-sided", _PLACES, quantization.both_inputs),
        Rule("group-size", "NvInfer.h, IConvolutionLayer::setNbGroups", quantization.group_sizes),
    ),
)
