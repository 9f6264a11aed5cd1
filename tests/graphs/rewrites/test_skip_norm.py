"""Residual additions fuse with the norm that reads them, and with nothing else."""

import sys
from pathlib import Path

import numpy as np
import pytest

from inference_pio.graphs.rewrites import skip_norm

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import SPEC, Handmade, apply, canonical, count, first, logits, set_attribute, some_ids, spec_with


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_every_norm_behind_a_residual_matches(layers):
    spec = spec_with(windows=(None,) * layers)
    model = canonical(spec)
    report = apply(model, skip_norm, spec=spec)
    assert (report.matches, report.refused) == (2 * layers, [])
    assert count(model, "SkipSimplifiedLayerNormalization") == 2 * layers
    assert count(model, "RMSNormalization") == 1 + 2 * layers  # behind the embedding, and on query and key heads
    assert count(model, "Add") == 0


def test_logits_stay_the_same(tmp_path):
    ids = some_ids()
    expected = logits(canonical(), tmp_path, ids)
    model = canonical()
    apply(model, skip_norm)
    assert np.abs(logits(model, tmp_path, ids) - expected).max() < 1e-5


def test_the_epsilon_of_the_norm_is_kept():
    spec = spec_with(norm_epsilon=3e-3)
    model = canonical(spec)
    apply(model, skip_norm, spec=spec)
    fused = first(model, "SkipSimplifiedLayerNormalization")
    assert fused.attributes["epsilon"].value == pytest.approx(3e-3)


def test_a_sum_that_two_norms_read_is_left_alone():
    made = Handmade()
    total = made.b.op("Add", [made.input("x", 1, 4, 8), made.input("y", 1, 4, 8)])
    for name in ("one", "two"):
        normed = made.b.op("RMSNormalization", [total, made.weight(name, 8)], {"axis": -1, "epsilon": 1e-6})
        made.output(normed, f"{name}_out", 1, 4, 8)
    report = apply(made.model, skip_norm)
    assert report.matches == 0
    assert [reason.split(": ")[1] for reason in report.refused] == ["several norms read the sum"] * 2


def test_a_sum_that_is_a_graph_output_keeps_its_name():
    made = Handmade()
    total = made.b.op("Add", [made.input("x", 1, 4, 8), made.input("y", 1, 4, 8)])
    normed = made.b.op("RMSNormalization", [total, made.weight("w", 8)], {"axis": -1, "epsilon": 1e-6})
    made.output(total, "hidden", 1, 4, 8)
    made.output(normed, "normed", 1, 4, 8)
    assert apply(made.model, skip_norm).matches == 1
    assert [value.name for value in made.model.graph.outputs] == ["hidden", "normed"]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_bias_is_no_residual(swapped):
    made = Handmade()
    inputs = [made.input("x", 1, 4, 8), made.weight("bias", 8)]
    total = made.b.op("Add", inputs[::-1] if swapped else inputs)
    made.output(made.b.op("RMSNormalization", [total, made.weight("w", 8)], {"axis": -1}), "y", 1, 4, 8)
    report = apply(made.model, skip_norm)
    assert report.matches == 0
    assert "a bias, not a residual" in report.refused[0]


def test_a_norm_over_several_axes_is_left_alone():
    model = canonical()
    norm = next(node for node in model.graph if node.op_type == "RMSNormalization" and "post_attention" in node.name)
    set_attribute(norm, "axis", 1)
    report = apply(model, skip_norm)
    assert report.matches == 2 * SPEC.layers - 1
    assert "not over the last axis" in report.refused[0]
