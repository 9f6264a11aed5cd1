"""Weights of experts (QMoE, MoE), all of a layer in one initializer, as the original's experts would use them.

Kernel contracts: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md. Eight bits in blocks
round activations to int8 per row and block at every accuracy level, four bits at level 4; without blocks nothing is
rounded.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from inference_pio.errors import BadInputError
from inference_pio.verify.stored_rows import (
    Blocks,
    StoredRows,
    float_rows,
    quantized_rows,
    refuse_zero_points,
    shape_of,
    whole_number,
)
from inference_pio.verify.weights import InputRounding

INT8_ACTIVATIONS = 4
QUANTIZED_WEIGHTS = {2: 3, 5: 6}
"""Inputs of QMoE that hold weights, and those that hold their scales."""
ZERO_POINTS = (11, 12)
FLOAT_WEIGHTS = (2, 4)
"""Inputs of MoE that hold weights."""


def read_quantized_experts(node: ir.Node, index: int, data: ir.Value) -> StoredRows:
    """The weight at input `index` of a QMoE, [E * N, K]; raises BadInputError for forms the exporter does not write."""
    refuse_zero_points(node, *ZERO_POINTS)
    bits, block = whole_number(node, "expert_weight_bits"), whole_number(node, "block_size", 0)
    experts, rows, size = _three_axes(node, data)
    layout = Blocks(experts * rows, size * 8 // bits, bits, block or size * 8 // bits)
    stored = quantized_rows(node, data, node.inputs[QUANTIZED_WEIGHTS[index]], layout)
    rounds = block and (bits == 8 or whole_number(node, "accuracy_level", 0) == INT8_ACTIVATIONS)
    return replace(stored, rounding=InputRounding(block) if rounds else None)


def read_float_experts(node: ir.Node, weight: ir.Value) -> StoredRows:
    """A weight of a MoE, [E * N, K]."""
    experts, rows, _ = _three_axes(node, weight)
    return float_rows(weight, experts * rows)


def _three_axes(node: ir.Node, value: ir.Value) -> tuple[int, int, int]:
    shape = shape_of(value)
    if len(shape) != 3:
        raise BadInputError(f"node '{node.name}' has experts of shape {list(shape)}: export the artifact again")
    return shape[0], shape[1], shape[2]
