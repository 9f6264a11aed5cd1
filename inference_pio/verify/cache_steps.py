"""The steps of an int8 cache, read back from an artifact's graph."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir

from inference_pio.verify.tensors import read_rows
from inference_pio.verify.weights import CacheSteps

_FACTOR = re.compile(r"layers\.(\d+)\.int8_cache\.(key|value)_factor")
"""Initializers by which keys and values are multiplied before they are rounded: the inverse of their steps."""


def read_cache_steps(graph: ir.Graph) -> dict[int, CacheSteps]:
    """Steps by layer; empty for a graph whose cache is float32."""
    head_dims = {int(match[1]): _head_dim(value) for value in graph.inputs if (match := _key_input(value))}
    found: dict[int, dict[str, np.ndarray]] = {}
    for name, value in graph.initializers.items():
        match = _FACTOR.fullmatch(name)
        if match is None or value.const_value is None:
            continue
        factors = read_rows(value.const_value, 0, int(value.const_value.shape.numpy()[0]))
        found.setdefault(int(match[1]), {})[match[2]] = (1 / factors).reshape(-1, head_dims[int(match[1])])
    return {layer: CacheSteps(steps["key"], steps["value"]) for layer, steps in found.items()}


def _key_input(value: ir.Value) -> re.Match[str] | None:
    return re.fullmatch(r"past_key_values\.(\d+)\.key", str(value.name))


def _head_dim(value: ir.Value) -> int:
    assert value.shape is not None
    return int(str(value.shape[3]))
