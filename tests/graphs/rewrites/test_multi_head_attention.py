"""Attention without a mask becomes MultiHeadAttention, with the same numbers; everything else stays."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from inference_pio.graphs.rewrites import multi_head_attention

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import Handmade, apply, canonical, count

HEADS, WIDTH = 4, 32


def graph(inputs: int = 3, **attributes: object) -> ir.Model:
    made = Handmade()
    values = [made.input(name, "images", "patches", WIDTH) for name in ("q", "k", "v")]
    if inputs == 4:
        values.append(made.input("mask", "patches", "patches"))
    merged = {"q_num_heads": HEADS, "kv_num_heads": HEADS, "scale": 0.3, **attributes}
    made.output(made.b.op("Attention", values, merged), "y", "images", "patches", WIDTH)
    return made.model


def run(model: ir.Model, folder: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    ir.save(model, folder / "model.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(folder / "model.onnx"), options).run(None, feeds)[0]


@pytest.mark.parametrize("patches", [1, 7, 300])
def test_same_numbers(tmp_path, patches):
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(size=(2, patches, WIDTH)).astype(np.float32) for name in ("q", "k", "v")}
    model = graph()
    expected = run(model, tmp_path, feeds)
    assert apply(model, multi_head_attention).matches == 1
    assert (count(model, "Attention"), count(model, "MultiHeadAttention")) == (0, 1)
    assert np.abs(run(model, tmp_path, feeds) - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [({"is_causal": 1}, "causal"), ({"softcap": 5.0}, "soft-capped"), ({"kv_num_heads": 2}, "share")],
)
def test_refused(attributes, reason):
    model = graph(**attributes)
    report = apply(model, multi_head_attention)
    assert report.matches == 0 and reason in report.refused[0]
    assert count(model, "Attention") == 1


def test_masks_and_caches_do_not_match():
    for model in (graph(inputs=4), canonical()):
        assert apply(model, multi_head_attention).matches == 0
