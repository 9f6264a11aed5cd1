"""Element types behind operators that shape inference does not know, such as ONNX Runtime's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx

STANDARD = ("", "ai.onnx")
T = onnx.TensorProto
FIXED = {
    **dict.fromkeys(("Shape", "Size", "ArgMax", "ArgMin", "NonZero"), T.INT64),
    **dict.fromkeys(("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "IsNaN", "IsInf"), T.BOOL),
    **dict.fromkeys(("MatMulInteger", "ConvInteger"), T.INT32),
}
"""Standard operators whose result has a type of its own."""
BY_INPUT = {"Where": 1, "DequantizeLinear": 1, "QuantizeLinear": 2}
"""Standard operators whose result has the type of this input; of the others, as of contrib operators, the first."""
UNKNOWN = {"If", "Loop", "Scan", "Constant", "ConstantOfShape", "EyeLike", "OneHot", "DynamicQuantizeLinear"}


def spread(nodes: Iterable[Any], known: dict[str, int]) -> dict[str, int]:
    """`known` element types by value, with those that follow; nodes come in the order in which they run."""
    types = dict(known)
    for node in nodes:
        result = _result(node, types)
        if result:
            for name in node.output:
                types.setdefault(name, result)
    return types


def _result(node: Any, types: dict[str, int]) -> int:
    if node.domain in STANDARD:
        if node.op_type in UNKNOWN:
            return 0
        if node.op_type == "Cast":
            return next((attribute.i for attribute in node.attribute if attribute.name == "to"), 0)
        if node.op_type in FIXED:
            return FIXED[node.op_type]
    index = BY_INPUT.get(node.op_type, 0)
    return types.get(node.input[index], 0) if index < len(node.input) else 0
