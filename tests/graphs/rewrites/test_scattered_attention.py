"""Attention over a cache that is written in place equals the canonical one with past and present."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from inference_pio.graphs.rewrites import scattered_attention
from inference_pio.graphs.rewrites.rewrite import apply_rewrite

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import Handmade, set_attribute

HEADS, GROUPS, SIZE, PAST, NEW, READ, ROWS = 4, 2, 8, 5, 3, 16, 512
CONTEXT = SimpleNamespace(spec=SimpleNamespace(head_dim=SIZE), context_length=300)


def canonical(monkeypatch, window=None, **attributes):
    """One attention layer with its cache; the mask's window is what the rewrite is told."""
    made = Handmade()
    width = {"q": HEADS * SIZE, "k": GROUPS * SIZE, "v": GROUPS * SIZE}
    inputs = [made.input(name, 1, "S", size) for name, size in width.items()]
    inputs.append(made.input("mask", 1, 1, "S", "T"))
    inputs += [made.input(f"past_key_values.0.{kind}", 1, GROUPS, "P", SIZE) for kind in ("key", "value")]
    given = {"q_num_heads": HEADS, "kv_num_heads": GROUPS, "scale": 0.3, "is_causal": 0, **attributes}
    result, *presents = made.b.ops("Attention", inputs, given, 3, name="layers.0/attention/Attention")
    made.output(result, "y", 1, "S", HEADS * SIZE)
    for value, kind in zip(presents, ("key", "value"), strict=True):
        made.output(value, f"present.0.{kind}", 1, GROUPS, "T", SIZE)
    monkeypatch.setattr(scattered_attention, "mask_window", lambda mask: window)
    monkeypatch.setattr("inference_pio.graphs.rewrites.grouped_attention_parts.mask_window", lambda mask: window)
    return made


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def test_the_result_and_the_cache_are_the_same(monkeypatch):
    random = np.random.default_rng(0)
    made = canonical(monkeypatch)
    q, k, v = (random.normal(size=(1, NEW, n * SIZE)).astype(np.float32) for n in (HEADS, GROUPS, GROUPS))
    key, value = (random.normal(size=(1, GROUPS, PAST, SIZE)).astype(np.float32) for _ in range(2))
    seen = np.arange(PAST + NEW) <= np.arange(PAST, PAST + NEW)[:, None]
    mask = np.where(seen, 0, -1e30).astype(np.float32)[None, None]
    feeds = {"q": q, "k": k, "v": v}
    caches = {"past_key_values.0.key": key, "past_key_values.0.value": value}
    expected, *presents = run(made.model, {**feeds, "mask": mask, **caches})
    assert apply_rewrite(scattered_attention, made.model.graph, CONTEXT, required=True).matches == 1
    made.model.graph.inputs.remove(next(value for value in made.model.graph.inputs if value.name == "mask"))
    whole = {name: random.normal(size=(1, GROUPS, ROWS, SIZE)).astype(np.float32) for name in caches}
    for name, cache in caches.items():
        whole[name][:, :, :PAST] = cache
    bias = np.full((1, 1, NEW, READ), -1e30, np.float32)
    bias[..., : PAST + NEW] = mask
    found, *written = run(made.model, {**feeds, **whole, "attention_bias": bias, "write_indices": np.array([PAST])})
    assert np.abs(found - expected).max() < 1e-6
    for present, cache in zip(presents, written, strict=True):
        assert np.array_equal(cache[:, :, : PAST + NEW], present)
        assert cache.shape[2] == ROWS


def test_rows_behind_those_that_are_read_may_hold_anything(monkeypatch):
    made = canonical(monkeypatch)
    apply_rewrite(scattered_attention, made.model.graph, CONTEXT, required=True)
    made.model.graph.inputs.remove(next(value for value in made.model.graph.inputs if value.name == "mask"))
    random = np.random.default_rng(1)
    sizes = {"q": HEADS, "k": GROUPS, "v": GROUPS}
    feeds = {name: random.normal(size=(1, NEW, n * SIZE)).astype(np.float32) for name, n in sizes.items()}
    feeds["attention_bias"] = np.zeros((1, 1, NEW, READ), np.float32)
    feeds["write_indices"] = np.array([PAST])
    caches = [np.zeros((1, GROUPS, ROWS, SIZE), np.float32) for _ in range(2)]
    results = []
    for filler in (0.0, np.nan):
        for cache in caches:
            cache[:, :, READ:] = filler
        names = ("past_key_values.0.key", "past_key_values.0.value")
        results.append(run(made.model, {**feeds, **dict(zip(names, caches, strict=True))})[0])
    assert np.array_equal(*results)


def test_latents_are_cached_alike_and_are_keys_and_values(monkeypatch):
    monkeypatch.setattr(scattered_attention, "mask_window", lambda mask: None)
    made, random = Handmade(), np.random.default_rng(2)
    past = made.input("past_key_values.0.latent", 1, 1, "P", SIZE)
    rows = made.b.op("Concat", [past, made.input("new", 1, 1, "S", SIZE)], {"axis": 2})
    inputs = [made.input("q", 1, HEADS, "S", SIZE), rows, rows, made.input("mask", 1, 1, "S", "T")]
    made.output(made.b.op("Attention", inputs, {"scale": 0.3}, name="layers.0/attention"), "y", 1, HEADS, "S", SIZE)
    made.output(rows, "present.0.latent", 1, 1, "T", SIZE)
    feeds = {"q": random.normal(size=(1, HEADS, NEW, SIZE)), "new": random.normal(size=(1, 1, NEW, SIZE))}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    held = random.normal(size=(1, 1, PAST, SIZE)).astype(np.float32)
    mask = np.zeros((1, 1, NEW, PAST + NEW), np.float32)
    expected, present = run(made.model, {**feeds, "past_key_values.0.latent": held, "mask": mask})
    assert apply_rewrite(scattered_attention, made.model.graph, CONTEXT, required=True).matches == 1
    made.model.graph.inputs.remove(next(value for value in made.model.graph.inputs if value.name == "mask"))
    whole = np.zeros((1, 1, ROWS, SIZE), np.float32)
    whole[:, :, :PAST] = held
    bias = np.full((1, 1, NEW, READ), -1e30, np.float32)
    bias[..., : PAST + NEW] = 0
    steps = {"attention_bias": bias, "write_indices": np.array([PAST])}
    found, written = run(made.model, {**feeds, "past_key_values.0.latent": whole, **steps})
    assert np.abs(found - expected).max() < 1e-6
    assert np.array_equal(written[:, :, : PAST + NEW], present)


def test_a_window_has_a_bias_of_its_own(monkeypatch):
    made = canonical(monkeypatch, window=7)
    apply_rewrite(scattered_attention, made.model.graph, CONTEXT, required=True)
    assert {"attention_bias.7", "write_indices"} <= {value.name for value in made.model.graph.inputs}


@pytest.mark.parametrize(("name", "value"), [("is_causal", 1), ("softcap", 5.0)])
def test_other_attention_is_left_alone(monkeypatch, name, value):
    made = canonical(monkeypatch)
    set_attribute(next(node for node in made.model.graph if node.op_type == "Attention"), name, value)
    report = apply_rewrite(scattered_attention, made.model.graph, CONTEXT, required=False)
    assert (report.matches, len(report.refused)) == (0, 1)


def test_attention_without_a_cache_is_no_match(monkeypatch):
    made = Handmade()
    made.output(made.b.op("Attention", [made.input(name, 1, 2, 8) for name in "qkv"]), "y", 1, 2, 8)
    assert apply_rewrite(scattered_attention, made.model.graph, CONTEXT, required=False).matches == 0
