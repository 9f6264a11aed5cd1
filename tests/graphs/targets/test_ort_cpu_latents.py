"""Lowering latent attention to ort-cpu: how often every rewrite matches, and what is left of the canonical graph."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import canonical as grouped
from graph_cases import context, first, set_attribute
from latent_cases import SPEC, canonical, spec_with

from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import FP32, WeightFormat
from inference_pio.graphs.targets import find_target


@pytest.mark.parametrize("formats", [FP32, WeightFormat(8)], ids=str)
def test_match_counts(formats):
    model = canonical()
    reports = find_target("ort-cpu").lower(model, context(SPEC, formats))
    matches = {report.name: report.matches for report in reports}
    assert {name: matches[name] for name in ("pack_latents", "latent_attention", "head_products")} == {
        "pack_latents": 2,
        "latent_attention": 2,
        "head_products": 4,
    }
    assert not matches.keys() & {"pack_qkv", "group_query_attention", "int8_cache"}
    assert matches["linear_kernels"] == 2 * 5 + 1  # projections in one, queries, output, two of the MLP; the head
    found = Counter(node.op_type for node in model.graph)
    assert "Attention" not in found
    assert found["TensorScatter"] == 2
    assert [value.name for value in model.graph.inputs][:2] == ["input_ids", "attention_mask"]


def test_attention_that_cannot_be_lowered_is_an_error_with_a_trace():
    spec = spec_with(windows=(None,))
    model = canonical(spec)
    set_attribute(first(model, "Attention"), "softcap", 30.0)
    with pytest.raises(BadInputError, match=r"rewrite latent_attention matched nothing \(.*soft-capped scores\)"):
        find_target("ort-cpu").lower(model, context(spec))


def test_grouped_attention_never_sees_the_steps_for_latents():
    reports = find_target("ort-cpu").lower(grouped(), context())
    assert not {report.name for report in reports} & {"pack_latents", "latent_attention", "head_products"}
