"""Norms of heads move into the attention only where both are there, alike and before the rotation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import apply, canonical, count, first, set_attribute, spec_with

from inference_pio.graphs.rewrites import fold_head_norms, group_query_attention, pack_qkv


@pytest.mark.parametrize("packed", [True, False])
def test_norms_and_split_are_gone(packed):
    model = canonical()
    rewrites = [pack_qkv] if packed else []
    report = apply(model, *rewrites, group_query_attention, fold_head_norms, required=True)
    assert report.matches == 2
    assert (count(model, "RMSNormalization"), count(model, "Split"), count(model, "Reshape")) == (5, 0, 0)
    node = first(model, "GroupQueryAttention")
    assert [value is None for value in node.inputs[:3]] == ([False, True, True] if packed else [False] * 3)
    weights = [node.inputs[index].name for index in (14, 15)]
    assert weights == [f"model.layers.0.self_attn.{kind}_norm.weight" for kind in "qk"]
    assert node.attributes["qk_norm_epsilon"].value == pytest.approx(1e-6)


def test_a_model_without_head_norms():
    model, spec = canonical(spec_with(qk_norm=False)), spec_with(qk_norm=False)
    assert apply(model, group_query_attention, fold_head_norms, spec=spec).matches == 0


def test_norms_that_differ_stay():
    model = canonical()
    apply(model, group_query_attention)
    norm = first(model, "GroupQueryAttention").inputs[0].producer().inputs[0].producer()
    set_attribute(norm, "epsilon", 1e-3)
    report = apply(model, fold_head_norms)
    assert report.matches == 1 and "epsilon" in report.refused[0]
