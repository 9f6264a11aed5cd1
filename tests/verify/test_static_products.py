"""The simulation reads products between QuantizeLinear and DequantizeLinear as the exporter writes them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError
from inference_pio.verify.original import rounded_weights
from inference_pio.verify.static_products import read_static_product

sys.path.insert(0, str(Path(__file__).parents[1]))
from static_cases import STEP, product

TABLE = "model.embed_tokens.weight"


@pytest.fixture
def artifact(block_artifact) -> Artifact:
    return Artifact.open(block_artifact("w8a8-static"))


def test_every_tensor_is_found_in_some_graph(artifact, tiny):
    weights = rounded_weights(artifact)
    with Checkpoint.open(tiny) as checkpoint:
        for name, info in checkpoint.tensors.items():
            assert weights.shape(name) == info.shape
    assert weights.rounds_activations


def test_rows_are_codes_times_scales(artifact):
    weights = rounded_weights(artifact)
    graph = ir.load(artifact.file("head.onnx")).graph
    codes, scales = (
        next(v for n, v in graph.initializers.items() if n.endswith(end)).const_value.numpy()
        for end in (".kernel", ".scales")
    )
    expected = codes.reshape(len(codes), -1) * scales[:, None]
    assert np.array_equal(weights.rows(TABLE, 7, 19), expected[7:19])
    assert np.array_equal(weights.embedding_rows(TABLE, np.array([3, 40])), expected[[3, 40]])
    block = ir.load(artifact.file("block-00.onnx")).graph
    name = "model.layers.1.mlp.down_proj.weight"
    codes, scales = (block.initializers[f"{name}.{end}"].const_value.numpy() for end in ("columns", "scales"))
    found = weights.rows(name, 0, codes.shape[1])
    exact = weights.input_rounding(name).exact
    inner = [k for k in range(codes.shape[0]) if k not in exact]
    assert np.array_equal(found[:, inner], (codes * scales).T[:, inner])


def test_inputs_are_rounded_by_the_graphs_step(artifact):
    weights = rounded_weights(artifact)
    graph = ir.load(artifact.file("head.onnx")).graph
    step = next(node for node in graph if node.op_type == "QuantizeLinear").inputs[1].const_value.numpy()
    rounding = weights.input_rounding(TABLE)
    assert (rounding.step, rounding.exact, rounding.block) == (float(step), (), None)
    steps = {weights.input_rounding(f"model.layers.0.self_attn.{kind}_proj.weight").step for kind in "qkv"}
    assert len(steps) == 1


def test_other_forms_are_refused(artifact):
    graph = ir.load(artifact.file("head.onnx")).graph
    weight = next(node for node in graph if str(node.name).endswith("weight"))
    conv = next(node for node in graph if node.op_type == "Conv")
    conv.replace_input_with(0, graph.inputs[0])  # an activation that is not rounded
    with pytest.raises(BadInputError, match="in a form that the simulation does not know"):
        read_static_product(weight)


@pytest.mark.parametrize("exact", [(), (3, 20)])
def test_columns_kept_exact_come_from_their_own_weights(exact):
    made = product(exact)
    node = next(node for node in made.model.graph if str(node.name).endswith("weight"))
    found = read_static_product(node)
    assert (found.shape, found.rounding.step, found.rounding.exact) == ((16, 24), float(np.float32(STEP)), exact)
    rows, weight = found.read(0, 16), made.arrays["one"]
    assert np.array_equal(rows[:, list(exact)], weight[:, list(exact)])
    assert 0 < np.abs(rows - weight).max() <= np.abs(weight).max() / 127
