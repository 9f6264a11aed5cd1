"""Taps of a layer: which linear layers share one, what can take in its smoothing, and that folding changes nothing."""

import numpy as np
import onnx_ir as ir
import pytest
from graph_cases import arrays_of, canonical, spec_with

from inference_pio.calibration.choices import TapChoice, fold
from inference_pio.calibration.layer_graphs import LayerGraph, cut
from inference_pio.calibration.layer_runs import Runner, feed_of
from inference_pio.calibration.smoothing import Smoothing
from inference_pio.calibration.taps import Tap, find_cache_taps, find_taps
from inference_pio.graphs.spec import DecoderSpec

PREFIX = "model.layers.1."
BIASES = {"qkv_bias": True, "output_bias": True, "mlp_bias": True}


def names(tap: Tap) -> tuple[str, ...]:
    return tuple(name.removeprefix(PREFIX).removesuffix(".weight").partition(".")[2] for name in tap.linears)


def layer_of(model: ir.Model) -> LayerGraph:
    return cut(model).layers[1]


def absorbers(model: ir.Model) -> dict[str, tuple[str, ...] | None]:
    taps = find_taps(layer_of(model))
    return {
        names(tap)[-1]: tap.absorber and tuple(t.removeprefix(PREFIX) for t in tap.absorber.tensors) for tap in taps
    }


def test_linear_layers_that_read_one_value_share_a_tap():
    taps = find_taps(layer_of(canonical()))
    assert [names(tap) for tap in taps] == [
        ("q_proj", "k_proj", "v_proj"),
        ("o_proj",),
        ("gate_proj", "up_proj"),
        ("down_proj",),
    ]
    assert [tap.columns for tap in taps] == [32, 64, 32, 48]
    assert taps[0].name == f"{PREFIX}self_attn.q_proj.weight"


def test_what_makes_a_tap_absorbs_its_smoothing():
    assert absorbers(canonical()) == {
        "v_proj": ("input_layernorm.weight",),
        "o_proj": ("self_attn.v_proj.weight",),
        "up_proj": ("post_attention_layernorm.weight",),
        "down_proj": ("mlp.up_proj.weight",),
    }


def test_a_bias_is_absorbed_with_its_weight():
    found = absorbers(canonical(spec_with(**BIASES)))
    assert found["o_proj"] == ("self_attn.v_proj.weight", "self_attn.v_proj.bias")
    assert found["down_proj"] == ("mlp.up_proj.weight", "mlp.up_proj.bias")
    assert found["v_proj"] == ("input_layernorm.weight",)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_query_heads_of_a_group_share_the_rows_of_their_value_head(kv_heads: int):
    tap = find_taps(layer_of(canonical(spec_with(kv_heads=kv_heads))))[1]
    assert tap.absorber is not None
    rows = tap.absorber.rows.reshape(4, 16)
    for head in range(4):
        assert rows[head].tolist() == list(range(head * kv_heads // 4 * 16, head * kv_heads // 4 * 16 + 16))


@pytest.mark.parametrize("tensor", ["input_layernorm", "post_attention_layernorm", "self_attn.v_proj", "mlp.up_proj"])
def test_a_value_that_somebody_else_reads_is_not_scaled(tensor: str):
    model = canonical()
    before = absorbers(model)
    weight = model.graph.initializers[f"{PREFIX}{tensor}.weight"]
    node = next(iter(weight.consumers()))
    node = next(iter(node.outputs[0].consumers())) if node.op_type == "Transpose" else node
    model.graph.append(ir.Node("", "Neg", [node.outputs[0]], name="layers.1/elsewhere"))
    found = absorbers(model)
    assert [name for name in before if found[name] != before[name]] == [
        name for name, tensors in before.items() if tensors == (f"{tensor}.weight",)
    ]
    assert all(found[name] is None for name in before if found[name] != before[name])


def run(layer: LayerGraph, runner: Runner, weights: dict[str, np.ndarray]) -> np.ndarray:
    hidden = np.random.default_rng(5).normal(size=(1, 7, 32)).astype(np.float32)
    feed = feed_of(layer, hidden, runner.shared_values(7), weights)
    return runner.session(layer, []).run(None, feed)[0]


def folded(weights: dict[str, np.ndarray], choices: list[TapChoice]) -> dict[str, np.ndarray]:
    tensors = dict(weights)
    fold(tensors, choices)
    return tensors


@pytest.mark.parametrize(
    "spec",
    [
        spec_with(),
        spec_with(kv_heads=1),
        spec_with(kv_heads=4),
        spec_with(**BIASES),
    ],
    ids=["grouped", "one_head", "no_groups", "bias"],
)
def test_folding_any_factors_leaves_the_layer_as_it_was(spec: DecoderSpec):
    model, arrays, random = canonical(spec), arrays_of(spec), np.random.default_rng(1)
    layers = cut(model)
    layer, runner = layers.layers[1], Runner(layers, model.opset_imports, 1)
    weights = {str(value.name): arrays[str(value.name)] for value in layer.weights}
    choices = []
    for tap in find_taps(layer):
        assert tap.absorber is not None
        factors = np.exp(random.normal(0, 2, tap.absorber.rows.max() + 1)).astype(np.float32)[tap.absorber.rows]
        choices.append(TapChoice(tap, Smoothing(factors, 0.5, 0.0, 0.0), ()))
    exact = run(layer, runner, weights)
    assert np.abs(run(layer, runner, folded(weights, choices)) - exact).max() < 1e-5 * np.abs(exact).max()
    for left_out in range(len(choices)):
        some = folded(weights, choices[:left_out] + choices[left_out + 1 :])
        assert np.abs(run(layer, runner, some) - exact).max() < 1e-5 * np.abs(exact).max()
    assert not any(np.array_equal(folded(weights, choices)[n], weights[n]) for c in choices for n in c.tap.linears)


def test_without_smoothing_folding_hands_back_the_tensors_themselves():
    layer, arrays = layer_of(canonical()), arrays_of(spec_with())
    choices = [TapChoice(t, Smoothing(np.ones(t.columns, np.float32), None, 0, 0), ()) for t in find_taps(layer)]
    result = folded(arrays, choices)
    assert all(result[name] is arrays[name] for name in arrays)


def test_cache_taps_are_the_keys_before_rotation_and_the_values():
    spec = spec_with()
    model, arrays = canonical(spec), arrays_of(spec)
    layers = cut(model)
    layer, runner = layers.layers[0], Runner(layers, model.opset_imports, 1)
    taps = find_cache_taps(layer)
    assert taps is not None and taps.kv_heads == 2
    weights = {str(value.name): arrays[str(value.name)] for value in layer.weights}
    hidden = np.random.default_rng(0).normal(size=(1, 6, 32)).astype(np.float32)
    feed = feed_of(layer, hidden, runner.shared_values(6), weights)
    wanted = [find_taps(layer)[0].value, taps.key, taps.value]
    _, x, key, value = runner.session(layer, wanted).run(None, feed)
    plain = (x @ arrays["model.layers.0.self_attn.k_proj.weight"].T).reshape(1, 6, 2, 16)
    normed = plain / np.sqrt(np.square(plain).mean(-1, keepdims=True) + spec.norm_epsilon)
    normed *= arrays["model.layers.0.self_attn.k_norm.weight"]
    assert np.allclose(key, normed.reshape(1, 6, 32), atol=1e-5)
    assert np.allclose(value, x @ arrays["model.layers.0.self_attn.v_proj.weight"].T, atol=1e-5)
