"""Attention over a token-major cache: what matches, what must not, and what rows that are hidden change."""

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites import grouped_attention_parts, host_rotary, latent_attention_parts
from inference_pio.graphs.rewrites.attention_parts import Rows, attend

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import apply, canonical, first, set_attribute, spec_with
from latent_cases import SPEC as LATENT
from latent_cases import canonical as latent_canonical

GROUPS, REPEATS, SIZE, PAST, NEW = 2, 3, 8, 16, 4


def test_cached_and_new_rows_share_one_softmax():
    """Against float64, with a cache of which a part is in use: the rest holds large numbers that must not count."""
    b = GraphBuilder()
    rows = REPEATS * NEW
    q = b.input("q", ir.DataType.FLOAT, [1, GROUPS, rows, SIZE])
    parts = []
    for name, count in (("past", PAST), ("new", NEW)):
        key, value = (b.input(f"{name}_{kind}", ir.DataType.FLOAT, [1, count, GROUPS, SIZE]) for kind in ("k", "v"))
        parts.append(Rows(key, value, b.input(f"{name}_bias", ir.DataType.FLOAT, [rows, count])))
    b.output(attend(b, q, *parts), "y", ir.DataType.FLOAT, [1, GROUPS, rows, SIZE])
    b.graph.opset_imports[""] = 17
    rng, used = np.random.default_rng(0), 11
    feeds = {str(v.name): rng.normal(0, 2, [int(str(d)) for d in v.shape]).astype(np.float32) for v in b.graph.inputs}
    feeds["past_k"][:, used:] = feeds["past_v"][:, used:] = 1e4
    feeds["past_bias"][:] = np.where(np.arange(PAST) < used, 0, -1e30)
    feeds["new_bias"][:] = np.tile(np.where(np.tri(NEW) > 0, 0, -1e30), (REPEATS, 1))
    data = ir.to_proto(ir.Model(b.graph, ir_version=8)).SerializeToString()
    (found,) = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, feeds)

    exact = {name: value.astype(np.float64) for name, value in feeds.items()}
    keys, values = (np.concatenate([exact[f"past_{k}"][:, :used], exact[f"new_{k}"]], axis=1)[0] for k in ("k", "v"))
    scores = np.einsum("gmd,tgd->gmt", exact["q"][0], keys)
    scores += np.concatenate([np.zeros((rows, used)), exact["new_bias"]], axis=1)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    expected = np.einsum("gmt,tgd->gmd", shares / shares.sum(axis=-1, keepdims=True), values)
    assert np.abs(found[0] - expected).max() < 1e-5


def test_every_layer_matches_and_biases_are_inputs():
    spec = spec_with(windows=(None, 8, 8))
    model = canonical(spec)
    assert apply(model, grouped_attention_parts, spec=spec).matches == 3
    names = [str(value.name) for value in model.graph.inputs]
    assert [name for name in names if "bias" in name] == ["past_bias", "new_bias", "past_bias.8", "new_bias.8"]
    latents = latent_canonical()
    assert apply(latents, latent_attention_parts, spec=LATENT).matches == LATENT.layers


@pytest.mark.parametrize(("attribute", "value", "reason"), [("is_causal", 1, "not explicit"), ("softcap", 5.0, "soft")])
@pytest.mark.parametrize("kind", ["grouped", "latent"])
def test_other_attention_is_left_alone(kind, attribute, value, reason):
    model = canonical() if kind == "grouped" else latent_canonical()
    set_attribute(first(model, "Attention"), attribute, value)
    rewrite = grouped_attention_parts if kind == "grouped" else latent_attention_parts
    report = apply(model, rewrite, spec=spec_with() if kind == "grouped" else LATENT)
    assert report.matches == 1
    assert reason in report.refused[0]


def test_one_kind_of_attention_is_not_the_other():
    assert apply(canonical(), latent_attention_parts).matches == 0
    assert apply(latent_canonical(), grouped_attention_parts, spec=LATENT).matches == 0


def test_other_angles_stay_in_the_graph():
    model = canonical()
    other = spec_with(head_dim=16, rope=spec_with(head_dim=8).rope)  # frequencies of another model
    report = apply(model, host_rotary, spec=other)
    assert report.matches == 0
    assert "rotary angles other than the model's" in report.refused[0]
    assert apply(model, host_rotary).matches == 4
    assert [str(value.name) for value in model.graph.inputs][-2:] == ["cos", "sin"]
