"""Attention over a buffer written in place: any grouping of heads, windows, chunks; what it cannot express stays."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from cuda_cases import caches, logits_of_chunks, session_of
from graph_cases import apply, canonical, count, first, logits, set_attribute, some_ids, spec_with

from inference_pio.graphs.rewrites import cached_attention


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("windows", [(None, None), (3, 5)], ids=str)
def test_same_as_the_canonical_graph(tmp_path, kv_heads, windows):
    spec, ids = spec_with(kv_heads=kv_heads, windows=windows), some_ids(length=11)
    expected = logits(canonical(spec), tmp_path, ids, spec)
    model = canonical(spec)
    assert apply(model, cached_attention, spec=spec, required=True).matches == 2
    assert count(model, "Where") == len(set(windows))
    assert "position_ids" not in {value.name for value in model.graph.inputs if list(value.uses())}
    assert np.abs(logits(model, tmp_path, ids, spec, **caches(spec, 2, 13)) - expected).max() < 1e-5


def test_chunks_after_each_other(tmp_path):
    """Rows go behind those that the mask counts; what lies in the buffer beyond them changes nothing."""
    spec, ids = spec_with(), some_ids(1, 10)
    expected = logits(canonical(spec), tmp_path, ids, spec)
    model = canonical(spec)
    apply(model, cached_attention, spec=spec)
    session, held = session_of(model, tmp_path), caches(spec, 1, 16)
    for array in held.values():
        array[:] = 7.0
    assert np.abs(logits_of_chunks(session, ids, held, (4, 1, 5)) - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("name", "value", "reason"), [("is_causal", 1, "not explicit"), ("softcap", 9.0, "soft-capped")]
)
def test_what_the_operator_cannot_express(name, value, reason):
    model = canonical()
    set_attribute(first(model, "Attention"), name, value)
    report = apply(model, cached_attention)
    assert report.matches == 1 and reason in report.refused[0]


def test_attention_without_a_cache_does_not_match():
    model = canonical()
    for node in [node for node in model.graph if node.op_type == "Attention"]:
        node.resize_inputs(4)
    assert apply(model, cached_attention).matches == 0
