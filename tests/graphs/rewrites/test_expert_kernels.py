"""Experts get the operator of their format and compute what the canonical function does; other functions stay."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import FP16, FP32, W8A8, Activations, WeightFormat
from inference_pio.graphs.rewrites.linear_kernels import rounds_activations
from inference_pio.graphs.spec import Scoring
from inference_pio.graphs.weights import recipe_of

sys.path.insert(0, str(Path(__file__).parents[2]))
from expert_cases import PREFIX, arrays_of, build, dequantized, experts_spec, lower, run, some_tokens
from graph_cases import count, first, set_attribute

INT8, INT4 = WeightFormat(8), WeightFormat(4)
SIGMOID = {"scoring": Scoring.SIGMOID}
ROUTINGS = {
    "softmax": {},
    "softmax_as_it_is": {"normalize": False},
    "softmax_scaled": {"scale": 2.5},
    "one_expert": {"active": 1, "normalize": False},
    "all_experts": {"active": 5, "normalize": False},
    "single": {"count": 1, "active": 1},
    "sigmoid": SIGMOID,
    "sigmoid_scaled": {**SIGMOID, "scale": 1.8, "shared_width": 24},
    "sigmoid_as_it_is": {**SIGMOID, "normalize": False, "active": 3},
    "sigmoid_all": {**SIGMOID, "normalize": False, "active": 5},
}


@pytest.fixture(params=ROUTINGS.values(), ids=ROUTINGS.keys())
def routing(request: pytest.FixtureRequest):
    return request.param


@pytest.mark.parametrize("rows", [(1, 1), (2, 9), (1, 70)], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_floats_are_the_canonical_function(routing, rows, threads):
    spec = experts_spec(**routing)
    x, arrays = some_tokens(*rows), arrays_of(spec)
    expected = run(build(spec, arrays), x)
    model = build(spec, arrays)
    assert lower(model, spec, FP32).matches == 1
    assert [count(model, name) for name in ("MoE", "QMoE", "MoESoftmax", "MoESigmoid")] == [1, 0, 0, 0]
    assert np.abs(expected).max() > 0.5
    assert np.abs(run(model, x, threads) - expected).max() < 1e-5
    assert not model.functions
    assert set(model.graph.opset_imports) == {"", "com.microsoft"}


@pytest.mark.parametrize("rows", [(1, 1), (2, 9), (1, 70)], ids=str)
@pytest.mark.parametrize("bits", [8, 4])
def test_integers_are_the_function_of_dequantized_weights(routing, rows, bits):
    """Without blocks the kernel leaves activations alone, so that nothing but the weights is rounded."""
    spec = experts_spec(**routing, width=22)
    x, arrays = some_tokens(*rows), arrays_of(spec)
    rounded = {
        name: dequantized(array, bits, array.shape[1]) if ".experts." in name else array
        for name, array in arrays.items()
    }
    expected = run(build(spec, rounded), x)
    model = build(spec, arrays)
    assert lower(model, spec, WeightFormat(bits)).matches == 1
    assert np.abs(run(model, x, 2) - expected).max() < 1e-5
    assert np.abs(run(build(spec, arrays), x) - expected).max() > 1e-3
    assert not rounds_activations(first(model, "QMoE"))


@pytest.mark.parametrize("chosen", [INT8, INT4, W8A8, WeightFormat(8, 16)], ids=str)
def test_blocks_round_activations_too(routing, chosen):
    spec = experts_spec(**routing)
    bits, block = chosen.bits, chosen.block_size or 16
    x, arrays = some_tokens(1, 70), arrays_of(spec)
    rounded = {n: dequantized(a, bits, block) if ".experts." in n else a for n, a in arrays.items()}
    expected = run(build(spec, rounded), x)
    model = build(spec, arrays)
    lower(model, spec, chosen)
    node = first(model, "QMoE")
    assert rounds_activations(node)
    assert (node.attributes["block_size"].value, node.attributes["expert_weight_bits"].value) == (16, bits)
    error = np.abs(run(model, x) - expected)
    assert 1e-4 < error.max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(("bits", "block"), [(4, 16), (8, None)])
def test_exact_forms_round_nothing_but_the_weights(routing, bits, block):
    """Four bits in blocks; eight with a scale per row."""
    spec = experts_spec(**routing)
    x, arrays = some_tokens(1, 70), arrays_of(spec)
    rounded = {n: dequantized(a, bits, block or a.shape[1]) if ".experts." in n else a for n, a in arrays.items()}
    expected = run(build(spec, rounded), x)
    model = build(spec, arrays)
    lower(model, spec, WeightFormat(bits, activations=Activations.EXACT))
    node = first(model, "QMoE")
    assert not rounds_activations(node)
    assert node.attributes.get("block_size", ir.AttrInt64("block_size", 0)).value == (block or 0)
    assert np.abs(run(model, x) - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("hidden_width", "asked", "block"), [(64, None, 32), (48, None, 16), (96, 16, 16), (96, 128, 32), (40, None, None)]
)
def test_one_block_size_divides_both_rows(hidden_width, asked, block):
    spec = experts_spec(width=hidden_width)
    model = build(spec, arrays_of(spec))
    lower(model, spec, WeightFormat(4, asked))
    node = first(model, "QMoE")
    found = node.attributes.get("block_size")
    assert (None if found is None else found.value) == block
    shapes = [tuple(node.inputs[index].shape) for index in (2, 3, 5, 6)]
    tails = [(), ()] if block is None else [(32 // block,), (hidden_width // block,)]
    rows = [(5, 2 * hidden_width), (5, 32)]
    assert shapes == [(*rows[0], 16), (*rows[0], *tails[0]), (*rows[1], hidden_width // 2), (*rows[1], *tails[1])]


def test_gate_and_up_take_turns_and_are_named():
    spec = experts_spec(count=2)
    arrays = arrays_of(spec)
    model = build(spec, arrays)
    lower(model, spec, FP32)
    weight = first(model, "MoE").inputs[2]
    recipe = recipe_of(weight)
    names = [f"{PREFIX}.experts.{n}.{kind}_proj.weight" for n in range(2) for kind in ("gate", "up")]
    assert recipe.sources == tuple((name, 48) for name in names)
    assert recipe.interleaved == 2
    values = weight.const_value.numpy()
    for expert in range(2):
        assert (values[expert, 0::2] == arrays[names[2 * expert]]).all()
        assert (values[expert, 1::2] == arrays[names[2 * expert + 1]]).all()
    down = first(model, "MoE").inputs[4]
    assert recipe_of(down).interleaved == 1
    assert (down.const_value.numpy()[1] == arrays[f"{PREFIX}.experts.1.down_proj.weight"]).all()


def test_half_precision_is_rounded_once_and_widened():
    spec = experts_spec()
    arrays = arrays_of(spec)
    halves = {n: a.astype(np.float16).astype(np.float32) if ".experts." in n else a for n, a in arrays.items()}
    expected = run(build(spec, halves), some_tokens())
    model = build(spec, arrays)
    lower(model, spec, FP16)
    stored = [v for v in model.graph.initializers.values() if v.dtype == ir.DataType.FLOAT16]
    assert [tuple(value.shape) for value in stored] == [(5, 96, 32), (5, 32, 48)]
    assert np.abs(run(model, some_tokens()) - expected).max() < 1e-5


def test_the_router_stays_a_linear_layer():
    spec = experts_spec()
    model = build(spec, arrays_of(spec))
    lower(model, spec, INT4)
    matmul = first(model, "MatMul")
    assert matmul.inputs[1].producer().op_type == "Transpose"
    assert matmul.inputs[1].producer().inputs[0].name == f"{PREFIX}.gate.weight"


def test_one_token_is_the_same_alone_and_among_others():
    spec = experts_spec(count=4, active=2)
    model = build(spec, arrays_of(spec))
    lower(model, spec, INT8)
    x = some_tokens(1, 30)
    together = run(model, x)
    for token in range(30):
        assert np.abs(run(model, x[:, token : token + 1])[0, 0] - together[0, token]).max() < 1e-5


@pytest.mark.parametrize("kind", ["gate", "up", "down"])
def test_one_operator_has_one_format(kind):
    spec = experts_spec()
    odd = f"{PREFIX}.experts.3.{kind}_proj.weight"
    with pytest.raises(BadInputError, match=rf"int4 and '{odd}' int8|int8 and '.*' int4"):
        lower(build(spec, arrays_of(spec)), spec, lambda name: INT8 if name == odd else INT4)


def test_four_bits_need_even_rows():
    spec = experts_spec(width=21)
    with pytest.raises(BadInputError, match="rows of 32 and 21 elements: 4 bits need even numbers"):
        lower(build(spec, arrays_of(spec)), spec, INT4)
    assert lower(build(spec, arrays_of(spec)), spec, INT8).matches == 1


def without_rows(model: ir.Model) -> None:
    """Weights that are plain numbers, of which no checkpoint tensor is known."""
    node = first(model, "MoESoftmax")
    weight = node.inputs[4]
    value = ir.Value(name="plain", const_value=ir.tensor(weight.const_value.numpy(), name="plain"))
    model.graph.register_initializer(value)
    node.replace_input_with(4, value)


def of_another_domain(model: ir.Model) -> None:
    first(model, "MoESoftmax").domain = "elsewhere"


def computed(model: ir.Model) -> None:
    """Weights that another node makes."""
    node = first(model, "MoESoftmax")
    double = ir.node("Add", [node.inputs[2], node.inputs[2]])
    model.graph.insert_before(node, double)
    node.replace_input_with(2, double.outputs[0])


@pytest.mark.parametrize("change", [without_rows, of_another_domain, computed])
def test_what_is_not_the_canonical_function_stays(change):
    spec = experts_spec()
    model = build(spec, arrays_of(spec))
    change(model)
    assert lower(model, spec, INT8).matches == 0
    assert count(model, "MoESoftmax") == 1
    assert len(model.functions) == (0 if change is of_another_domain else 2)


def test_the_attributes_are_the_functions():
    spec = experts_spec(active=3, normalize=False, scale=0.5)
    model = build(spec, arrays_of(spec))
    set_attribute(first(model, "MoESoftmax"), "top_k", [4])
    lower(model, spec, FP32)
    node = first(model, "MoE")
    assert (node.attributes["k"].value, node.attributes["normalize_routing_weights"].value) == (4, 0)
    assert count(model, "Mul") == 1
