"""Gate and up projections are packed only when they agree in everything."""

import sys
from pathlib import Path

import numpy as np
import pytest

from inference_pio.graphs.formats import WeightFormat
from inference_pio.graphs.rewrites import pack_gate_up
from inference_pio.graphs.weights import stored_rows

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import Handmade, apply, canonical, count, logits, some_ids, spec_with


@pytest.mark.parametrize("inner", [1, 33, 48])
def test_each_layer_is_packed_and_computes_the_same(tmp_path, inner):
    spec = spec_with(intermediate_size=inner)
    ids = some_ids()
    expected = logits(canonical(spec), tmp_path, ids, spec)
    model = canonical(spec)
    report = apply(model, pack_gate_up, spec=spec)
    assert (report.matches, report.refused) == (2, [])
    assert count(model, "Split") == 2
    assert np.abs(logits(model, tmp_path, ids, spec) - expected).max() < 1e-5


def test_the_gate_comes_first():
    model = canonical()
    apply(model, pack_gate_up)
    packed = stored_rows(model.graph.initializers["model.layers.1.mlp.gate_up_proj.weight"])
    assert packed.parts == (("model.layers.1.mlp.gate_proj.weight", 48), ("model.layers.1.mlp.up_proj.weight", 48))


def gated(make_gate, make_up, swap=False):
    """`Mul(Swish(gate), up)` of two values that the functions make from a graph and its input."""
    made = Handmade()
    x = made.input("x", 1, 4, 8)
    gate, up = make_gate(made, x), make_up(made, x)
    inputs = [made.b.op("Swish", [gate]), up]
    made.output(made.b.op("Mul", inputs[::-1] if swap else inputs), "y", 1, 4, 6)
    return made.model


def linear(name):
    return lambda made, x: made.linear(x, made.weight(name, 6, 8))


def biased(name):
    return lambda made, x: made.b.op("Add", [linear(name)(made, x), made.weight(f"{name}.bias", 6)])


def test_the_plain_pair_matches():
    assert apply(gated(linear("gate_proj.weight"), linear("up")), pack_gate_up).matches == 1


def other_input(made, _):
    return made.linear(made.input("other", 1, 4, 8), made.weight("up", 6, 8))


@pytest.mark.parametrize(
    ("gate", "up"),
    [
        (linear("gate"), other_input),
        (linear("gate"), lambda made, x: made.input("up", 1, 4, 6)),
        (lambda made, x: made.input("gate", 1, 4, 6), linear("up")),
        (linear("gate"), lambda made, x: made.linear(x, made.b.const(np.ones((6, 8)), np.float32))),
    ],
    ids=["other input", "up is no layer", "gate is no layer", "up is no checkpoint weight"],
)
def test_what_must_not_match(gate, up):
    report = apply(gated(gate, up), pack_gate_up)
    assert (report.matches, report.refused) == (0, [])


def test_a_bias_on_one_of_them_prevents_it():
    for gate, up in ((biased("gate"), linear("up")), (linear("gate"), biased("up"))):
        assert apply(gated(gate, up), pack_gate_up).matches == 0


def test_one_layer_that_gates_itself_is_left_alone():
    made = Handmade()
    value = made.linear(made.input("x", 1, 4, 8), made.weight("gate", 6, 8))
    made.output(made.b.op("Mul", [made.b.op("Swish", [value]), value]), "y", 1, 4, 6)
    report = apply(made.model, pack_gate_up)
    assert report.matches == 0
    assert "two roles" in report.refused[0]


def test_different_formats_prevent_it():
    report = apply(
        canonical(), pack_gate_up, formats=lambda name: WeightFormat(8 if "layers.0.mlp.up_proj" in name else 4)
    )
    assert report.matches == 1
    assert "different weight formats" in report.refused[0]


def test_a_weight_that_serves_both_is_left_alone():
    made = Handmade()
    x, weight = made.input("x", 1, 4, 8), made.weight("both", 6, 8)
    gate, up = made.linear(x, weight), made.linear(x, weight)
    made.output(made.b.op("Mul", [made.b.op("Swish", [gate]), up]), "y", 1, 4, 6)
    report = apply(made.model, pack_gate_up)
    assert report.matches == 0
    assert "used elsewhere" in report.refused[0]
