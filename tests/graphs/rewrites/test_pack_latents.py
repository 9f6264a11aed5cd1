"""Projections to queries and latents as one layer."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import Handmade, apply, count, some_ids
from graph_cases import canonical as grouped
from latent_cases import SPEC, Steps, canonical, spec_with

from inference_pio.graphs.formats import FP32, WeightFormat
from inference_pio.graphs.rewrites import latent_attention, pack_gate_up, pack_latents, pack_qkv

SPECS = {
    "low_rank_queries": SPEC,
    "direct_queries": spec_with({"q_rank": None}),
    "bias": spec_with(qkv_bias=True, output_bias=True),
}
IDS = some_ids(1, 12)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_two_layers_become_one_and_give_the_same(spec, tmp_path):
    expected = Steps(canonical(spec), tmp_path).step(IDS)
    model = canonical(spec)
    before = count(model, "MatMul")
    assert apply(model, pack_latents, spec=spec).matches == 2
    assert count(model, "MatMul") == before - 2
    assert "model.layers.0.self_attn.q_kv_a_proj.weight" in model.graph.initializers
    apply(model, latent_attention, spec=spec)
    model.graph.inputs[:] = [value for value in model.graph.inputs if list(value.uses())]
    assert np.abs(Steps(model, tmp_path).step(IDS) - expected).max() < 1e-5


def test_other_formats_and_a_bias_on_one_side_are_left_alone():
    model = canonical()
    formats = lambda name: WeightFormat(8) if "q_a_proj" in name else FP32  # noqa: E731
    assert "different weight formats" in apply(model, pack_latents, spec=SPEC, formats=formats).refused[0]
    spec = spec_with({"q_rank": None}, qkv_bias=True)
    report = apply(canonical(spec), pack_latents, spec=spec)
    assert (report.matches, len(report.refused)) == (0, 2)
    assert "some have none" in report.refused[0]


def test_a_split_of_other_layers_is_left_alone():
    model = grouped()
    apply(model, pack_qkv, pack_gate_up)
    assert count(model, "Split") == 4
    assert apply(model, pack_latents).matches == 0


def test_layers_with_two_partners_are_left_alone():
    hand = Handmade()
    x = hand.input("x", 1, "s", 8)
    first, *others = [hand.linear(x, hand.weight(name, 6, 8)) for name in ("a", "b", "c")]
    for index, part in enumerate(hand.b.ops("Split", [first, hand.b.const([2, 4])], {"axis": -1}, 2)):
        hand.output(part, f"part{index}", 1, "s", 2 + 2 * index)
    for index, other in enumerate(others):
        hand.output(other, f"other{index}", 1, "s", 6)
    report = apply(hand.model, pack_latents)
    assert (report.matches, report.refused) == (0, [])
