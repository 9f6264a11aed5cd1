"""Rotations, norms, activations and appends in the operators of ONNX Runtime 1.20: same numbers, and what stays."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from cuda_cases import caches, session_of
from graph_cases import apply, canonical, count, first, logits, set_attribute, some_ids
from latent_cases import SPEC as LATENT
from latent_cases import canonical as canonical_latents

from inference_pio.graphs.rewrites import latent_attention, rotary_kernels, scatter_rows, silu_kernels, simple_norm


@pytest.mark.parametrize(
    ("rewrite", "gone", "matches"),
    [(rotary_kernels, "Attention", 4), (simple_norm, "RMSNormalization", 9), (silu_kernels, "Swish", 2)],
    ids=lambda value: getattr(value, "__name__", str(value)).rsplit(".", 1)[-1],
)
def test_same_numbers(tmp_path, rewrite, gone, matches):
    ids = some_ids()
    expected = logits(canonical(), tmp_path, ids)
    model = canonical()
    before = count(model, gone)
    assert apply(model, rewrite, required=True).matches == matches
    assert count(model, gone) == (before if rewrite is rotary_kernels else 0)
    assert np.abs(logits(model, tmp_path, ids) - expected).max() < 1e-5


def test_one_table_of_angles_serves_every_layer():
    model = canonical()
    apply(model, rotary_kernels)
    assert count(model, "Flatten") == 2
    assert {node.domain for node in model.graph if node.op_type == "RotaryEmbedding"} == {"com.microsoft"}


def test_a_rotation_of_an_unknown_number_of_heads_stays():
    model = canonical()
    set_attribute(first(model, "RotaryEmbedding"), "num_heads", 0)
    report = apply(model, rotary_kernels)
    assert report.matches == 3 and "number of heads" in report.refused[0]


def test_appends_of_latents(tmp_path):
    ids = some_ids(1, 6)
    results = []
    for rewrites in ((latent_attention,), (latent_attention, scatter_rows)):
        model = canonical_latents()
        apply(model, *rewrites, spec=LATENT, required=True)
        feeds = {"input_ids": ids, "attention_mask": np.ones((1, 6), np.int64), **caches(LATENT, 1, 8)}
        results.append(session_of(model, tmp_path).run(None, feeds))
    for expected, found in zip(*results, strict=True):
        assert np.array_equal(expected, found)


def test_a_ring_is_no_append():
    model = canonical_latents()
    apply(model, latent_attention, spec=LATENT)
    set_attribute(first(model, "TensorScatter"), "mode", "circular")
    report = apply(model, scatter_rows, spec=LATENT)
    assert report.matches == 1 and "append" in report.refused[0]
