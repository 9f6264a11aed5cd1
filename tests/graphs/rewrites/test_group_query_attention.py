"""Canonical attention becomes GroupQueryAttention; what the operator cannot express stays and is named."""

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from inference_pio.errors import BadInputError
from inference_pio.graphs.rewrites import group_query_attention, pack_qkv

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import apply, canonical, count, first, logits, set_attribute, some_ids, spec_with


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("windows", [(None, None), (4, None), (3, 5)], ids=str)
def test_each_layer_matches_and_computes_the_same(tmp_path, windows, packed):
    spec = spec_with(windows=windows)
    ids = some_ids(length=12)
    expected = logits(canonical(spec), tmp_path, ids, spec)
    model = canonical(spec)
    if packed:
        apply(model, pack_qkv, spec=spec)
    report = apply(model, group_query_attention, spec=spec, required=True)
    assert (report.matches, report.refused) == (2, [])
    assert [count(model, name) for name in ("Attention", "RotaryEmbedding", "Cos", "CumSum")] == [0] * 4
    assert np.abs(logits(model, tmp_path, ids, spec) - expected).max() < 1e-5
    fused = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    assert [node.attributes["local_window_size"].value for node in fused] == [w or -1 for w in windows]


def test_lengths_and_tables_are_made_once():
    model = canonical()
    apply(model, group_query_attention)
    assert count(model, "ReduceSum") == 1
    tables = {name: value for name, value in model.graph.initializers.items() if name.endswith("_cache")}
    assert {name: list(value.shape) for name, value in tables.items()} == {
        "cos_cache": [64, 8],
        "sin_cache": [64, 8],
    }


def test_the_tables_hold_the_angles_of_every_position():
    spec = spec_with()
    model = canonical(spec)
    apply(model, group_query_attention, spec=spec)
    angles = np.arange(64)[:, None] * np.array(spec.rope.inverse_frequencies)
    for name, function in (("cos_cache", np.cos), ("sin_cache", np.sin)):
        table = model.graph.initializers[name].const_value.numpy()
        assert np.abs(table - function(angles)).max() < 1e-5


@pytest.mark.parametrize(
    ("operator", "name", "value", "reason"),
    [
        ("Attention", "is_causal", 1, "not explicit"),
        ("Attention", "softcap", 30.0, "soft-capped"),
        ("RotaryEmbedding", "interleaved", 1, "interleaved"),
        ("RotaryEmbedding", "rotary_embedding_dim", 8, "partial"),
    ],
)
def test_attributes_that_the_operator_does_not_share(operator, name, value, reason):
    model = canonical()
    set_attribute(first(model, operator), name, value)
    report = apply(model, group_query_attention)
    assert report.matches == 1
    assert reason in report.refused[0]
    assert count(model, "Attention") == 1


@pytest.mark.parametrize("dim", [8, 24, 40])
def test_a_head_size_without_a_kernel_is_an_error_with_a_trace(dim):
    spec = spec_with(head_dim=dim)
    with pytest.raises(BadInputError, match=rf"matched nothing \(layers.0/attention/Attention: head size {dim} is"):
        apply(canonical(spec), group_query_attention, spec=spec, required=True)


def test_attention_without_a_cache_does_not_match():
    model = canonical()
    for node in [node for node in model.graph if node.op_type == "Attention"]:
        node.resize_inputs(4)
    assert apply(model, group_query_attention).matches == 0


@pytest.mark.parametrize("index", [0, 1])
def test_attention_over_unrotated_heads_does_not_match(index):
    model = canonical()
    node = first(model, "Attention")
    node.replace_input_with(index, node.inputs[index].producer().inputs[0])
    assert apply(model, group_query_attention).matches == 1


def test_a_mask_that_is_not_the_canonical_one_is_left_alone():
    model = canonical()
    node = first(model, "Attention")
    free = ir.Value(name="mask", shape=ir.Shape([1, 1, "s", "t"]), type=ir.TensorType(ir.DataType.BOOL))
    model.graph.inputs.append(free)
    node.replace_input_with(3, free)
    report = apply(model, group_query_attention)
    assert report.matches == 1
    assert "mask" in report.refused[0]


def test_a_rotation_of_other_angles_is_left_alone():
    model = canonical()
    rotation = first(model, "RotaryEmbedding")
    for index in (1, 2):
        free = ir.Value(name=f"angle{index}", shape=ir.Shape([1, "s", 8]), type=ir.TensorType(ir.DataType.FLOAT))
        model.graph.inputs.append(free)
        rotation.replace_input_with(index, free)
    report = apply(model, group_query_attention)
    assert report.matches == 1
    assert "angles" in report.refused[0]
