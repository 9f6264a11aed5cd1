"""Query, key and value projections are packed only when they agree in everything."""

import sys
from pathlib import Path

import numpy as np
import pytest

from inference_pio.graphs.formats import FP32, WeightFormat
from inference_pio.graphs.rewrites import pack_qkv
from inference_pio.graphs.rewrites.rewrite import match_linear, replace
from inference_pio.graphs.weights import stored_rows

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import apply, arrays_of, canonical, count, logits, some_ids, spec_with

PREFIX = "model.layers.0.self_attn"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_each_layer_is_packed_and_computes_the_same(tmp_path, bias, qk_norm, kv_heads):
    spec = spec_with(qkv_bias=bias, qk_norm=qk_norm, kv_heads=kv_heads)
    ids = some_ids()
    expected = logits(canonical(spec), tmp_path, ids, spec)
    model = canonical(spec)
    report = apply(model, pack_qkv, spec=spec)
    assert (report.matches, report.refused) == (2, [])
    assert count(model, "Split") == 2
    assert count(model, "MatMul") == 2 * (1 + 1 + 3) + 1
    assert np.abs(logits(model, tmp_path, ids, spec) - expected).max() < 1e-5


def test_the_weights_stand_in_the_order_query_key_value():
    spec = spec_with(qkv_bias=True)
    model = canonical(spec)
    apply(model, pack_qkv, spec=spec)
    arrays = arrays_of(spec)
    for kind in ("weight", "bias"):
        packed = stored_rows(model.graph.initializers[f"{PREFIX}.qkv_proj.{kind}"])
        assert [name for name, _ in packed.parts] == [f"{PREFIX}.{part}_proj.{kind}" for part in "qkv"]
        expected = np.concatenate([arrays[f"{PREFIX}.{part}_proj.{kind}"] for part in "qkv"])
        assert (packed.read(0, packed.count) == expected).all()
        assert (packed.read(60, 70) == expected[60:70]).all()


def linears(model):
    """The linear layers of a graph by the name of their weight."""
    matches = [match_linear(node) for node in model.graph]
    return {str(match.weight.name): match for match in matches if match is not None}


@pytest.mark.parametrize("without", ["q", "k", "v"])
def test_a_bias_on_some_projections_only_prevents_it(without):
    spec = spec_with(qkv_bias=True)
    model = canonical(spec)
    biased = linears(model)[f"{PREFIX}.{without}_proj.weight"]
    replace(biased.output, biased.nodes[0].outputs[0])
    report = apply(model, pack_qkv, spec=spec)
    assert report.matches == 1
    assert "layers.0" in report.refused[0]
    assert "some of the layers have a bias" in report.refused[0]


def test_different_formats_prevent_it():
    def formats(name):
        return WeightFormat(8) if name == f"{PREFIX}.v_proj.weight" else WeightFormat(4)

    report = apply(canonical(), pack_qkv, formats=formats)
    assert report.matches == 1
    assert "different weight formats" in report.refused[0]


def test_different_block_sizes_prevent_it():
    def formats(name):
        return WeightFormat(4, 16 if "k_proj" in name else 32)

    assert apply(canonical(), pack_qkv, formats=formats).matches == 0


@pytest.mark.parametrize("share", ["weight", "transpose"])
def test_a_weight_with_a_second_reader_prevents_it(share):
    model = canonical()
    key = linears(model)[f"{PREFIX}.k_proj.weight"]
    value = linears(model)[f"{PREFIX}.v_proj.weight"]
    if share == "weight":
        value.nodes[0].inputs[1].producer().replace_input_with(0, key.weight)
    else:
        value.nodes[0].replace_input_with(1, key.nodes[0].inputs[1])
    report = apply(model, pack_qkv)
    assert report.matches == 1
    assert "used elsewhere" in report.refused[0]


def test_projections_of_different_values_do_not_match():
    model = canonical()
    value = linears(model)[f"{PREFIX}.v_proj.weight"]
    embedded = next(node for node in model.graph if node.op_type == "Gather").outputs[0]
    value.nodes[0].replace_input_with(0, embedded)
    report = apply(model, pack_qkv)
    assert (report.matches, report.refused) == (1, [])


def test_one_projection_in_two_roles_is_left_alone():
    spec = spec_with(kv_heads=2, qk_norm=False)
    model = canonical(spec)
    attention = next(node for node in model.graph if node.op_type == "Attention")
    key = linears(model)[f"{PREFIX}.k_proj.weight"]
    attention.replace_input_with(2, key.output)
    report = apply(model, pack_qkv, spec=spec, formats=FP32)
    assert report.matches == 1
    assert "layers.0" in report.refused[0]


def test_a_value_that_no_linear_layer_makes_does_not_match():
    model = canonical()
    attention = next(node for node in model.graph if node.op_type == "Attention")
    attention.replace_input_with(2, next(value for value in model.graph.inputs if value.name.endswith(".value")))
    assert apply(model, pack_qkv).matches == 1
