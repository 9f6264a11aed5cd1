"""Applying rewrites: match counts, refusals with a trace, and the helpers that walk a graph."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from inference_pio.errors import BadInputError
from inference_pio.graphs.rewrites import (
    embedding_kernels,
    group_query_attention,
    keep_logits,
    linear_kernels,
    pack_gate_up,
    pack_qkv,
    skip_norm,
)
from inference_pio.graphs.rewrites.rewrite import (
    NoMatchError,
    apply_rewrite,
    match_linear,
    only_consumer,
    producer,
    prune,
    replace,
)

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import Handmade, canonical, context, count, first, spec_with

ALL = [embedding_kernels, group_query_attention, keep_logits, linear_kernels, pack_gate_up, pack_qkv, skip_norm]


def fake(check=lambda match, context: None):
    """A rewrite that matches every Swish and leaves it alone."""
    return SimpleNamespace(
        __name__="somewhere.fake",
        pattern=lambda node: node if node.op_type == "Swish" else None,
        check=check,
        rewrite=lambda graph, match, context: None,
    )


def refuse(match, context):
    raise NoMatchError("it is too warm")


def test_every_match_is_counted():
    report = apply_rewrite(fake(), canonical().graph, context(), required=True)
    assert (report.name, report.matches, report.refused) == ("fake", 2, [])


def test_a_refusal_names_node_and_reason():
    report = apply_rewrite(fake(refuse), canonical().graph, context(), required=False)
    assert report.matches == 0
    assert report.refused == [f"layers.{n}/mlp/Swish: it is too warm" for n in (0, 1)]


def test_a_required_rewrite_that_is_always_refused_fails_with_the_trace():
    with pytest.raises(BadInputError, match=r"fake matched nothing \(layers\.0/mlp/Swish: it is too warm; layers\.1"):
        apply_rewrite(fake(refuse), canonical().graph, context(), required=True)


def test_a_long_trace_is_cut():
    spec = spec_with(windows=(None,) * 9)
    with pytest.raises(BadInputError) as caught:
        apply_rewrite(fake(refuse), canonical(spec).graph, context(spec), required=True)
    assert str(caught.value).count("too warm") == 5


@pytest.mark.parametrize("rewrite", ALL, ids=lambda module: module.__name__.rsplit(".", 1)[-1])
def test_a_required_rewrite_without_any_candidate_fails(rewrite):
    made = Handmade()
    made.output(made.b.op("Neg", [made.input("x", 2, 3)]), "y", 2, 3)
    with pytest.raises(BadInputError, match=f"{rewrite.__name__.rsplit('.', 1)[-1]} matched nothing .no node has"):
        apply_rewrite(rewrite, made.model.graph, context(), required=True)
    assert apply_rewrite(rewrite, made.model.graph, context(), required=False).matches == 0


def test_nodes_that_an_earlier_match_consumed_are_skipped():
    def remove_all(graph, match, context):
        for node in [node for node in graph if node.op_type == "Swish"]:
            replace(node.outputs[0], node.inputs[0])
            graph.remove(node, safe=True)

    module = fake()
    module.rewrite = remove_all
    assert apply_rewrite(module, canonical().graph, context(), required=True).matches == 1


def test_a_linear_layer_is_its_matmul_and_perhaps_its_bias():
    made = Handmade()
    x, weight, bias = made.input("x", "n", 4), made.weight("w", 3, 4), made.weight("b", 3)
    plain = made.linear(x, weight)
    biased = made.b.op("Add", [made.linear(x, weight), bias])
    made.output(plain, "plain", "n", 3)
    made.output(biased, "biased", "n", 3)
    one, two = (match_linear(node) for node in made.model.graph if node.op_type == "MatMul")
    assert (one.x, one.weight, one.bias, one.output) == (x, weight, None, plain)
    assert (two.bias, two.output, len(two.nodes)) == (bias, biased, 2)


def test_an_addition_is_a_bias_only_when_it_is_one():
    made = Handmade()
    x, weight = made.input("x", "n", 3), made.weight("w", 3, 3)
    made.output(made.b.op("Add", [made.linear(x, weight), x]), "residual", "n", 3)
    read_twice = made.linear(x, weight)
    made.output(made.b.op("Add", [read_twice, made.weight("b", 3)]), "sum", "n", 3)
    made.output(made.b.op("Neg", [read_twice]), "negative", "n", 3)
    shifted = made.b.op("Add", [made.linear(x, weight), made.b.const(1.0, np.float32)])
    made.output(shifted, "shifted", "n", 3)
    wide = made.b.op("Add", [made.linear(x, weight), made.weight("table", 3, 3)])
    made.output(wide, "wide", "n", 3)
    matches = [match_linear(node) for node in made.model.graph if node.op_type == "MatMul"]
    assert [match.bias for match in matches] == [None] * 4


def test_what_is_no_linear_layer():
    made = Handmade()
    x, y, weight = made.input("x", 4, 4), made.input("y", 4, 4), made.weight("w", 4, 4)
    made.output(made.b.op("MatMul", [x, y]), "activations", 4, 4)
    made.output(made.b.op("MatMul", [x, weight]), "untransposed", 4, 4)
    made.output(made.b.op("MatMul", [x, made.b.op("Transpose", [y], {"perm": [1, 0]})]), "not a weight", 4, 4)
    made.output(made.b.op("MatMul", [x, made.b.op("Transpose", [weight], {"perm": [0, 1]})]), "not turned", 4, 4)
    made.output(made.linear(x, made.b.const(np.eye(4), np.float32)), "not of a checkpoint", 4, 4)
    made.output(made.b.op("MatMul", [x, y], domain="elsewhere"), "other domain", 4, 4)
    assert not [match for node in made.model.graph if (match := match_linear(node)) is not None]


def test_producer_and_only_consumer_ask_for_operator_and_domain():
    model = canonical()
    swish = first(model, "Swish")
    multiply = only_consumer(swish.outputs[0], "Mul")
    assert multiply is not None
    assert producer(multiply.inputs[0], "Swish") is swish
    assert producer(multiply.inputs[0], "Swish", "com.microsoft") is None
    assert only_consumer(swish.outputs[0], "Add") is None
    assert only_consumer(swish.inputs[0], "Neg") is None
    assert producer(None, "Swish") is None
    assert only_consumer(model.graph.outputs[0], "Neg") is None


def test_replacing_a_graph_output_keeps_name_type_and_place():
    made = Handmade()
    x = made.input("x", "n", 3)
    old, other = made.b.op("Neg", [x]), made.b.op("Abs", [x])
    made.output(old, "y", "n", 3)
    made.output(other, "z", "n", 3)
    replace(old, made.b.op("Exp", [x]))
    assert [value.name for value in made.model.graph.outputs] == ["y", "z"]
    new = made.model.graph.outputs[0]
    assert (new.producer().op_type, new.dtype, list(new.shape)) == ("Exp", ir.DataType.FLOAT, ["n", 3])


def test_prune_drops_what_no_output_needs():
    made = Handmade()
    x = made.input("x", "n", 3)
    dead = made.b.op("Neg", [x])
    made.b.op("Add", [dead, made.weight("unused", 3)])
    made.output(made.b.op("Abs", [x]), "y", "n", 3)
    prune(made.model.graph)
    assert [node.op_type for node in made.model.graph] == ["Abs"]
    assert not made.model.graph.initializers
    assert count(made.model, "Neg") == 0
