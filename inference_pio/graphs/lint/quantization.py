"""Rules of explicit quantization: what QuantizeLinear and DequantizeLinear look like, and where they stand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from inference_pio.graphs.lint.rule import Objection
from inference_pio.graphs.lint.scope import Scope, given

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
WEIGHTED = {"MatMul": (0, 1), "Gemm": (0, 1), "Conv": (0, 1), "ConvTranspose": (0, 1)}
"""Operators that have integer kernels, with their data and weight inputs."""
MOVES_DATA = {"Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose"}
MOVES_DATA |= {"Unsqueeze", "Pad", "MaxPool", QUANTIZE}
"""Operators that leave quantized values what they are."""


def pairs(scope: Scope) -> Iterator[Any]:
    """Every QuantizeLinear and DequantizeLinear that has data and scale."""
    kinds = (QUANTIZE, DEQUANTIZE)
    return (node for node in scope.nodes if node.op_type in kinds and len(node.input) >= 2 and node.output)


def three_inputs(scope: Scope) -> Iterator[Objection]:
    """The zero point is not optional."""
    for node in scope.nodes:
        if node.op_type in (QUANTIZE, DEQUANTIZE) and (len(node.input) != 3 or not all(node.input)):
            yield node, f"{node.op_type} has no zero point: add one of int8 zeros of the scale's shape"


def zero_points(scope: Scope) -> Iterator[Objection]:
    """Quantization is symmetric: zero points are constant zeros, as many as scales."""
    for node in pairs(scope):
        if len(node.input) < 3 or not node.input[2]:
            continue
        name = node.input[2]
        values, shape, scales = scope.constant(name), scope.shape(name), scope.shape(node.input[1])
        if not scope.is_constant(name):
            yield node, f"the zero point '{name}' is computed: make it an initializer of zeros"
        elif values is not None and np.any(values.astype(np.int64)):
            yield node, f"the zero point '{name}' is not zero: quantize symmetrically"
        elif (
            shape is not None and scales is not None and None not in (*shape, *scales) and _size(shape) != _size(scales)
        ):
            yield node, f"has {_size(shape)} zero points and {_size(scales)} scales: give as many of both"


def scales(scope: Scope) -> Iterator[Objection]:
    """Scales are known when an engine is built, float32 and positive."""
    for node in pairs(scope):
        name = node.input[1]
        source = scope.producer(name)
        if source is not None and source.op_type == "Cast" and scope.is_constant(given(source, 0)):
            name = given(source, 0)
        elif scope.dtype(name) not in (None, "FLOAT"):
            yield node, f"the scale '{name}' is {scope.dtype(name)}: store it as float32"
            continue
        values = scope.constant(name)
        if not scope.is_constant(name):
            yield node, f"the scale '{name}' is computed: make it an initializer"
        elif values is not None and (values.size == 0 or not np.all(values.astype(np.float64) > 0)):
            yield node, f"the scale '{name}' is not positive everywhere: calibrate again"


def axes(scope: Scope) -> Iterator[Objection]:
    """One scale, or, for weights, one per entry of the axis; never one per block."""
    for node in pairs(scope):
        data, scale = scope.shape(node.input[0]), scope.shape(node.input[1])
        if scale is None or None in scale or _size(scale) == 1:
            continue
        if len(scale) > 1 or scope.attribute(node, "block_size", 0):
            yield node, "has a scale per block: use one per tensor or per channel"
            continue
        if not comes_from_constant(scope, node.input[0]):
            yield node, f"has {_size(scale)} scales for an activation: use one for the whole tensor"
        axis = scope.attribute(node, "axis", 1)
        if data is not None and -len(data) <= axis < len(data) and data[axis] not in (None, _size(scale)):
            yield (
                node,
                f"has {_size(scale)} scales for {data[axis]} entries of axis {axis}: set the axis that they belong to",
            )


def int8_values(scope: Scope) -> Iterator[Objection]:
    """What is dequantized is int8 (no uint8, no int32 biases, no int4), and so is what is quantized to."""
    for node in pairs(scope):
        name = node.output[0] if node.op_type == QUANTIZE else node.input[0]
        dtype = scope.dtype(name)
        if dtype not in (None, "INT8"):
            advice = "leave biases in float32" if dtype == "INT32" else "use int8"
            yield node, f"{node.op_type} of {dtype} ('{name}'): {advice}"


def int8_constants(scope: Scope) -> Iterator[Objection]:
    """An int8 constant is what a DequantizeLinear reads, or a zero point, and nothing else."""
    for name in scope.initializers:
        if scope.dtype(name) != "INT8":
            continue
        for node in scope.consumers(name):
            allowed = {DEQUANTIZE: (0, 2), QUANTIZE: (2,)}.get(node.op_type, ())
            if any(value == name and index not in allowed for index, value in enumerate(node.input)):
                yield node, f"the int8 constant '{name}' feeds {node.op_type}: put a DequantizeLinear behind it"


def both_inputs(scope: Scope) -> Iterator[Objection]:
    """A product with one quantized input runs in float; both must be quantized, or none."""
    for node in scope.nodes:
        if node.op_type in WEIGHTED and len(node.input) >= 2:
            quantized = [dequantized(scope, node.input[index]) for index in WEIGHTED[node.op_type]]
            if any(quantized) and not all(quantized):
                bare = node.input[quantized.index(False)]
                yield node, f"'{bare}' is not quantized and the other input is: quantize both or none"


def weights_in_place(scope: Scope) -> Iterator[Objection]:
    """Nothing but a DequantizeLinear stands between an int8 weight and its product."""
    for node in scope.nodes:
        if node.op_type in WEIGHTED and len(node.input) >= 2:
            between = scope.producer(node.input[1])
            if between is not None and between.op_type in ("Transpose", "Reshape"):
                source = scope.producer(given(between, 0))
                if source is not None and source.op_type == DEQUANTIZE and scope.is_constant(given(source, 0)):
                    yield (
                        node,
                        f"a {between.op_type} stands behind the weight's DequantizeLinear: store it as it is used",
                    )


def static_channels(scope: Scope) -> Iterator[Objection]:
    """The dimension that an int8 product sums over is a build-time constant."""
    for node in scope.nodes:
        if node.op_type in WEIGHTED and dequantized(scope, given(node, 0)):
            shape = scope.shape(given(node, 0))
            axis = 1 if node.op_type.startswith("Conv") else -1
            if shape is not None and len(shape) > 1 and shape[axis] is None:
                yield node, f"the channels of '{node.input[0]}' are a free dimension: fix it"


def group_sizes(scope: Scope) -> Iterator[Objection]:
    """The groups of an int8 convolution have a multiple of 4 channels on both sides."""
    for node in scope.nodes:
        groups = scope.attribute(node, "group", 1) if node.op_type == "Conv" and len(node.input) >= 2 else 1
        shape = scope.shape(node.input[1]) if groups > 1 and dequantized(scope, node.input[0]) else None
        if shape is not None and len(shape) > 1 and shape[0] is not None and shape[1] is not None:
            outputs, inputs = shape[0] // groups, shape[1]
            if outputs % 4 or inputs % 4:
                yield node, f"its groups have {inputs} channels and give {outputs}: use multiples of 4, or float32"


def float_regions(scope: Scope) -> Iterator[Objection]:
    """Dequantized activations go into products, or are moved about; norms, softmax and elementwise parts stay float."""
    fine = {*WEIGHTED, *MOVES_DATA}
    for node in scope.nodes:
        if node.op_type == DEQUANTIZE and node.output and not comes_from_constant(scope, given(node, 0)):
            for reader in scope.consumers(node.output[0]):
                if reader.op_type not in fine:
                    yield reader, f"reads '{node.output[0]}', a quantized activation: leave {reader.op_type} in float"


def dequantized(scope: Scope, name: str) -> bool:
    """Whether a value comes from a DequantizeLinear, perhaps through operators that only move data."""
    node, passed = scope.producer(name), set[str]()
    while node is not None and node.op_type in MOVES_DATA - {QUANTIZE, "Concat"} and name not in passed:
        passed.add(name)  # a damaged graph may have a circle
        name = given(node, 0)
        node = scope.producer(name)
    return node is not None and node.op_type == DEQUANTIZE


def comes_from_constant(scope: Scope, name: str) -> bool:
    """Whether a value is a constant, or one that was quantized."""
    node = scope.producer(name)
    if node is not None and node.op_type == QUANTIZE:
        name = given(node, 0)
    return scope.is_constant(name)


def _size(shape: tuple[int | None, ...]) -> int:
    return int(np.prod([size or 0 for size in shape]))
