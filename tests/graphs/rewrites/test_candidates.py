"""The candidate outputs say what numpy says of the last position's logits, for any query; without one too."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from cuda_cases import session_of
from graph_cases import apply, canonical, first, some_ids, spec_with

from inference_pio.graphs.rewrites import candidates, linear_kernels

NAMES = ["logits", "candidate_ids", "candidate_logits", "candidate_masses", "seen_logits"]


def run(tmp_path, spec, **query):
    model = canonical(spec)
    assert apply(model, candidates, spec=spec, required=True).matches == 1
    ids = some_ids(1, 5, spec.vocab_size)
    empty = np.zeros((1, spec.kv_heads, 0, spec.head_dim), np.float32)
    feeds = {f"past_key_values.{n}.{kind}": empty for n in range(2) for kind in ("key", "value")}
    feeds |= {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(5)[None]}
    return [value[0, -1] for value in session_of(model, tmp_path).run(NAMES, feeds | query)]


def test_against_numpy(tmp_path):
    spec = spec_with(vocab_size=300)
    temperatures, seen = np.array([0.5, 1.0, 3.0], np.float32), np.array([7, 299, 0])
    logits, ids, best, masses, asked = run(tmp_path, spec, candidate_temperatures=temperatures, seen_ids=seen)
    order = np.argsort(-logits, kind="stable")[: candidates.COUNT]
    assert np.array_equal(ids, order) and np.array_equal(best, logits[order])
    assert np.array_equal(asked, logits[seen])
    exact = np.exp((logits - logits.max()).astype(np.float64)[:, None] / temperatures).sum(axis=0)
    assert np.abs(masses / exact - 1).max() < 1e-5


def test_a_small_vocabulary_without_a_query(tmp_path):
    logits, ids, best, masses, asked = run(tmp_path, spec_with())
    assert len(ids) == len(best) == 96 and masses.shape == asked.shape == (1,)
    assert asked[0] == logits[0]


def test_it_is_done_once_and_before_the_head_has_its_kernel():
    model = canonical()
    apply(model, candidates)
    report = apply(model, candidates)
    assert report.matches == 0 and "already" in report.refused[0]
    model = canonical()
    apply(model, linear_kernels)
    assert apply(model, candidates).matches == 0
    assert first(model, "FusedMatMul") is not None
