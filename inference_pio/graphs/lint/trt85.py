"""What TensorRT 8.5's ONNX parser and builder accept.

Sources: the parser is onnx-tensorrt, branch release/8.5-GA (`operators.md` and the importers named below); messages in
quotation marks stand in the libraries of the tensorrt 8.5.3.1 wheel. Where an importer broadcasts first (Where) there
is no rule about ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from inference_pio.graphs.lint import common, quantization
from inference_pio.graphs.lint.rule import Dialect, Objection, Rule
from inference_pio.graphs.lint.scope import Scope

TYPES = common.operator_types("trt85.json")
READ_AS = {"INT64": "INT32", "DOUBLE": "FLOAT"}
KNOWN_TYPES = ("FLOAT", "FLOAT16", "DOUBLE", "INT8", "INT32", "INT64", "BOOL", "UINT8")
CONSTANT = {
    "Slice": {3: "axes"},
    "Squeeze": {1: "axes"},
    "Unsqueeze": {1: "axes"},
    "CumSum": {1: "axis"},
    "TopK": {1: "K"},
    "InstanceNormalization": {1: "scale", 2: "B"},
}
INT32 = np.iinfo(np.int32)


def _trilu(scope: Scope, node: Any) -> str | None:
    rank = common.rank_of(scope, node, 0)
    return None if rank in (None, 2, 3) else f"has {rank} dimensions, and 2 or 3 are taken: reshape around it"


def _gemm(scope: Scope, node: Any) -> str | None:
    wrong = [common.rank_of(scope, node, index) not in (None, 2) for index in (0, 1)]
    return "takes matrices of two dimensions only: use MatMul" if any(wrong) else None


def _einsum(scope: Scope, node: Any) -> str | None:
    equation = scope.attribute(node, "equation", b"").decode("utf-8", "replace")
    terms = equation.split("->")[0].split(",")
    if "." in equation or any(len(set(term.strip())) != len(term.strip()) for term in terms):
        return f"'{equation}' has an ellipsis or a diagonal: use MatMul and Transpose"
    if not all((letter.islower() and letter.isascii()) or letter in "->, " for letter in equation):
        return f"'{equation}' has characters other than small letters: rename them"
    return None


def _max_pool(scope: Scope, node: Any) -> str | None:
    return "the output 'Indices' is not computed: drop it" if len(node.output) > 1 and node.output[1] else None


def _branches(scope: Scope, node: Any) -> str | None:
    then, other = (scope.attribute(node, f"{word}_branch", onnx.GraphProto()) for word in ("then", "else"))
    if len(then.output) != len(other.output):
        return "its branches have different numbers of outputs: give them as many"
    names = {value.name for value in then.output} & {value.name for value in other.output}
    return f"both branches call an output '{min(names)}': rename one" if names else None


def reduced_axes(scope: Scope) -> Iterator[Objection]:
    """Axes as an input are read by ReduceSum alone; the others would silently reduce every axis."""
    for node in scope.nodes:
        name = node.op_type
        if name.startswith("Reduce") and name != "ReduceSum" and len(node.input) > 1 and node.input[1]:
            yield node, f"'axes' as an input of {name} is ignored, every axis would be reduced: make it an attribute"


def interface(scope: Scope) -> Iterator[Objection]:
    """INT64 and DOUBLE inputs and outputs would become INT32 and FLOAT bindings."""
    graph = scope.model.graph
    for value in (*graph.input, *graph.output) if scope.main else ():
        dtype = scope.dtype(value.name)
        if dtype in READ_AS and value.name not in scope.initializers:
            yield None, f"'{value.name}' is {dtype} and its binding would be {READ_AS[dtype]}: declare it so"


def wide_integers(scope: Scope) -> Iterator[Objection]:
    """INT64 constants are clamped to 32 bits; only the starts and ends of a Slice mean the same afterwards."""
    for name in scope.initializers:
        values = scope.constant(name) if scope.dtype(name) == "INT64" else None
        if values is None or not values.size or (values.min() >= INT32.min and values.max() <= INT32.max):
            continue
        readers = scope.consumers(name)
        if any(node.op_type != "Slice" or name not in node.input[1:3] for node in readers):
            yield readers[0], f"'{name}' has values beyond 32 bits, which are clamped: use smaller ones"


_PARSER = "onnx-tensorrt 8.5, ModelImporter.cpp"
_OPERATORS = "onnx-tensorrt 8.5, docs/operators.md"
_IMPORTERS = "onnx-tensorrt 8.5, builtin_op_importers.cpp"
_QDQ = "onnx-tensorrt 8.5, QuantDequantLinearHelper"

DIALECT = Dialect(
    name="trt85",
    runtime="TensorRT 8.5",
    rules=(
        Rule("opset", _OPERATORS, common.opset(7, 17, "convert it, since newer forms are misread silently")),
        Rule("functions", "onnx-tensorrt 9.0 changelog: first with functions", common.functions_refused),
        Rule("operator", _OPERATORS, common.known_operators(TYPES, "lower it to operators that TensorRT 8.5 has")),
        Rule("operand-type", _OPERATORS, common.operand_types(TYPES, READ_AS, "supported")),
        Rule("value-type", f"{_PARSER}, convertDtype", common.value_types(KNOWN_TYPES, "use another type")),
        Rule("uint8", _IMPORTERS, common.uint8_at_the_border),
        Rule("interface", f"{_PARSER}, importInputs", interface),
        Rule("wide-integer", "onnx-tensorrt 8.5, onnx2trt_utils.cpp, convertINT64", wide_integers),
        Rule("constant-input", _OPERATORS, common.constant_inputs(CONSTANT)),
        Rule("reduce-axes", _IMPORTERS, reduced_axes),
        Rule("trilu-rank", "'Trilu input must have 2 or 3 input dimensions!'", common.each("Trilu", _trilu)),
        Rule("gemm-rank", "'GEMM must have 2D inputs!'", common.each("Gemm", _gemm)),
        Rule("einsum", _OPERATORS, common.each("Einsum", _einsum)),
        Rule("pool-indices", "'does not support the indices output in MaxPool'", common.each("MaxPool", _max_pool)),
        Rule("branches", _OPERATORS, common.each("If", _branches)),
        Rule("volume", "'tensor volume exceeds (2^31)-1'; TensorRT issue 1348", common.volume(2**31 - 1)),
        Rule("rank", "'exceeds the maximum supported' (Dims::MAX_DIMS)", common.rank(8)),
        Rule("external-data", _PARSER, common.external_data),
        Rule("zero-point-missing", "'requires 3 inputs for the DequantizeLinear operator'", quantization.three_inputs),
        Rule("zero-point", "'zeroPt must be all zeros'", quantization.zero_points),
        Rule("scale", "'Scale coefficients must all be positive'", quantization.scales),
        Rule("scale-axis", _QDQ, quantization.axes),
        Rule("quantized-type", f"{_QDQ}; onnxruntime issue 14229 (biases)", quantization.int8_values),
        Rule("int8-constant", "'Int8 constant is only allowed before DQ node'", quantization.int8_constants),
        Rule("one-sided", "TensorRT issue 4322; 'Missing Dequantization layer - 2nd input'", quantization.both_inputs),
        Rule("weight-moved", "TensorRT issue 1604", quantization.weights_in_place),
        Rule("channels", "'Int8 formats require build-time constant for C dimension'", quantization.static_channels),
        Rule("group-size", "NvInfer.h, IConvolutionLayer::setNbGroups", quantization.group_sizes),
        Rule("float-region", "'I/O tensors for Myelin graph should not be of INT8 type'", quantization.float_regions),
    ),
)
