"""Axes of reductions as inputs mean the same."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from inference_pio.graphs.rewrites import reduction_axes

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import Handmade, apply


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMean"])
def test_axes_become_an_input(operator):
    made = Handmade()
    x = made.input("x", 2, 3, 4)
    made.output(made.b.op(operator, [x], {"axes": [-1], "keepdims": 1}), "y", 2, 3, 1)
    assert apply(made.model, reduction_axes).matches == 1
    (node,) = made.model.graph
    assert "axes" not in node.attributes and len(node.inputs) == 2
    values = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    options = ort.SessionOptions()
    session = ort.InferenceSession(
        ir.to_proto(made.model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    reduce = {"ReduceMax": np.max, "ReduceMean": np.mean}[operator]
    assert np.allclose(session.run(None, {"x": values})[0], reduce(values, axis=-1, keepdims=True))


def test_axes_that_are_an_input_stay():
    made = Handmade()
    made.output(made.b.op("ReduceMax", [made.input("x", 2, 3), made.b.const([-1])], {"keepdims": 1}), "y", 2, 1)
    assert apply(made.model, reduction_axes).matches == 0


def test_other_operators_stay():
    made = Handmade()
    made.output(made.b.op("ReduceSum", [made.input("x", 2, 3), made.b.const([-1])], {"keepdims": 1}), "y", 2, 1)
    assert apply(made.model, reduction_axes).matches == 0
