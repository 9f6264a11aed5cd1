"""Operators taken apart compute the same as the whole ones, in a graph of opset 17."""

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from inference_pio.graphs.rewrites import (
    activation_parts,
    layer_norm_parts,
    rms_norm_parts,
    rotary_parts,
    vision_attention_heads,
    vision_attention_parts,
)

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import Handmade, apply, set_attribute


def run(model: ir.Model, **feeds: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def same_without(made: Handmade, rewrite: object, **feeds: np.ndarray) -> None:
    """Apply a rewrite and compare, the second time with opset 17."""
    expected = run(made.model, **feeds)
    assert apply(made.model, rewrite).matches == 1
    made.model.graph.opset_imports[""] = 17
    found = run(made.model, **feeds)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 2e-6 * max(1, np.abs(expected).max())


def values(*shape: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(0, scale, shape).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_rms_norm(scale):
    made = Handmade()
    attributes = {"axis": -1, "epsilon": 1e-5}
    made.output(
        made.b.op("RMSNormalization", [made.input("x", 2, 3, 8), made.weight("w", 8)], attributes), "y", 2, 3, 8
    )
    same_without(made, rms_norm_parts, x=values(2, 3, 8, scale=scale))


def test_layer_norm():
    made = Handmade()
    inputs = [made.input("x", 2, 3, 8), made.weight("w", 8), made.weight("b", 8)]
    made.output(made.b.op("LayerNormalization", inputs, {"axis": -1, "epsilon": 1e-6}), "y", 2, 3, 8)
    same_without(made, layer_norm_parts, x=values(2, 3, 8) + 5)


@pytest.mark.parametrize(
    ("operator", "attributes"), [("Swish", {}), ("Gelu", {"approximate": "tanh"}), ("Gelu", {"approximate": "none"})]
)
def test_activations(operator, attributes):
    made = Handmade()
    made.output(made.b.op(operator, [made.input("x", 4, 64)], attributes), "y", 4, 64)
    same_without(made, activation_parts, x=values(4, 64, scale=4))


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("by_head", [False, True])
def test_rotation(interleaved, by_head):
    """Heads side by side, or split off a Transpose that put them first; cos and sin are rows of an input."""
    made = Handmade()
    cos, sin = made.input("cos", "rows", 8), made.input("sin", "rows", 8)
    if by_head:
        turned = made.b.op("Transpose", [made.input("x", 1, 5, 3, 20)], {"perm": [0, 2, 1, 3]})
        _, x = made.b.ops("Split", [turned, made.b.const([4, 16])], {"axis": -1}, 2)
        feeds = {"x": values(1, 5, 3, 20)}
    else:
        x, feeds = made.input("x", 1, 5, 48), {"x": values(1, 5, 48)}
    angles = np.random.default_rng(0).uniform(0, 6, (5, 8)).astype(np.float32)
    attributes = {"num_heads": 3, "interleaved": interleaved}
    rows = [made.b.op("Unsqueeze", [value, made.b.const([0])]) for value in (cos, sin)]
    whole = made.b.op("RotaryEmbedding", [x, *rows], attributes)
    made.output(whole, "y", *((1, 3, 5, 16) if by_head else (1, 5, 48)))
    feeds |= {"cos": np.cos(angles), "sin": np.sin(angles)}
    expected = run(made.model, **feeds)
    node = whole.producer()
    assert node is not None
    node.replace_input_with(1, cos)
    node.replace_input_with(2, sin)
    assert apply(made.model, rotary_parts).matches == 1
    assert np.abs(run(made.model, **feeds) - expected).max() < 1e-6


def attention_among_patches():
    made = Handmade()
    q, k, v = (made.input(name, 2, "patches", 24) for name in "qkv")
    attributes = {"q_num_heads": 3, "kv_num_heads": 3, "scale": 0.3, "is_causal": 0}
    made.output(made.b.op("Attention", [q, k, v], attributes), "y", 2, "patches", 24)
    return made, {name: values(2, i + 4, 24)[:, :4] for i, name in enumerate("qkv")}


def test_attention_among_patches():
    made, feeds = attention_among_patches()
    same_without(made, vision_attention_parts, **feeds)


def test_attention_among_patches_with_heads_apart():
    made, feeds = attention_among_patches()
    expected = run(made.model, **feeds)
    assert apply(made.model, vision_attention_heads).matches == 1
    (attention,) = (node for node in made.model.graph if node.op_type == "Attention")
    assert "q_num_heads" not in attention.attributes
    assert np.abs(run(made.model, **feeds) - expected).max() < 1e-6


@pytest.mark.parametrize(
    ("operator", "inputs", "change", "rewrite", "reason"),
    [
        ("RMSNormalization", 2, ("axis", 1), rms_norm_parts, "more than the last axis"),
        ("LayerNormalization", 3, ("axis", 1), layer_norm_parts, "more than the last axis"),
        ("LayerNormalization", 2, ("axis", -1), layer_norm_parts, "without a bias"),
        ("Swish", 1, ("alpha", 2.0), activation_parts, "another factor"),
        ("RotaryEmbedding", 3, ("rotary_embedding_dim", 4), rotary_parts, "partial"),
        ("Attention", 3, ("is_causal", 1), vision_attention_parts, "causal"),
    ],
)
def test_other_forms_are_left_alone(operator, inputs, change, rewrite, reason):
    made = Handmade()
    result = made.b.op(operator, [made.input(f"x{index}", 2, 3, 8) for index in range(inputs)])
    made.output(result, "y", 2, 3, 8)
    node = result.producer()
    assert node is not None
    set_attribute(node, *change)
    report = apply(made.model, rewrite)
    assert report.matches == 0
    assert reason in report.refused[0]
