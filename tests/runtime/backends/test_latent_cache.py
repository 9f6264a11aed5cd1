"""A cache of latents through the backend and the engine: exact rows in use, saved blocks, growth, text."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference_pio.artifact import latent_rows
from inference_pio.artifact.bundle import Artifact
from inference_pio.errors import BadInputError
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.graphs.rewrites import latent_attention
from inference_pio.runtime import Engine, EngineConfig, SamplingParams
from inference_pio.runtime.backends import cache_buffers
from inference_pio.runtime.backends.cache_buffers import GROWTH
from inference_pio.runtime.backends.ort import OrtBackend
from inference_pio.runtime.memory import MemoryBudget

sys.path.insert(0, str(Path(__file__).parents[2]))
from shapes import original, reference_logits, write_shape

IDS = np.random.default_rng(0).integers(0, 2000, 150)
ROW = 3 * 40 * 4
"""Bytes of a token: three layers with a latent of 32 channels and a rotated key of 8."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shape("glm", tmp_path_factory.mktemp("glm") / "checkpoint")


@pytest.fixture(scope="module")
def artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(checkpoint, tmp_path_factory.mktemp("artifacts") / "fp32", ExportOptions(precision="fp32"))


def load(artifact: Artifact, **changes: object) -> OrtBackend:
    return OrtBackend(artifact.path, replace(artifact.manifest, **changes), 1, MemoryBudget(None))


@pytest.fixture(scope="module")
def backend(artifact: Artifact) -> OrtBackend:
    return load(artifact)


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> np.ndarray:
    return reference_logits(original(checkpoint), IDS[None])[0]


def test_a_token_takes_one_row_per_layer(artifact, backend):
    cache = artifact.manifest.cache
    assert (cache.kinds, cache.kv_heads, cache.head_dim) == (["latent"], 1, 40)
    assert artifact.manifest.memory.cache_bytes_per_token == ROW
    backend.budget.taken = 0
    backend.sequence().reserve(1)
    assert backend.budget.taken == GROWTH * ROW


@pytest.mark.parametrize("sizes", [[150], [1] * 20 + [128, 2], [128, 22], [7, 1, 1, 140, 1]], ids=len)
def test_steps_of_any_size(backend, expected, sizes):
    sequence, done = backend.sequence(), 0
    for size in sizes:
        found = sequence.forward(IDS[done : done + size], keep=size)
        assert np.abs(found - expected[done : done + size]).max() < 1e-4
        done += size


def test_what_an_earlier_request_left_does_not_count(backend, expected):
    """Not even where that broke down."""
    sequence = backend.sequence()
    sequence.reserve(200)
    for buffer in sequence._buffers:
        buffer[:] = np.nan
    for start in (0, 128):
        found = sequence.forward(IDS[start : start + 128], keep=22).copy()
    assert np.abs(found - expected[128:]).max() < 1e-4


def test_steps_read_a_long_context_in_parts(checkpoint, expected, tmp_path, monkeypatch):
    """Also over rows that hold no number yet, and after another request."""
    monkeypatch.setattr(latent_attention, "PART_ROWS", 16)
    monkeypatch.setattr(latent_rows, "PART_ROWS", 16)
    backend = load(export(checkpoint, tmp_path / "fp32", ExportOptions(precision="fp32")))
    sequence = backend.sequence()
    sequence.reserve(200)
    for buffer in sequence._buffers:
        buffer[:] = np.nan
    for length in (9, 100):
        sequence.forward(IDS[:length], keep=1)
        found = [sequence.forward(IDS[n : n + 1], keep=1)[0].copy() for n in range(length, 150)]
        assert np.abs(np.array(found) - expected[length:]).max() < 1e-4
        for buffer in sequence._buffers:
            buffer[:, :, 120:] = np.nan
        sequence.clear()


def test_rows_are_bound_anew_only_when_more_are_read(backend, monkeypatch):
    monkeypatch.setattr(latent_rows, "PART_ROWS", 32)
    sequence, bound = backend.sequence(), []
    bind = sequence._bind_cache
    monkeypatch.setattr(sequence, "_bind_cache", lambda index, rows: (bound.append(rows.shape[2]), bind(index, rows)))
    sequence.forward(IDS[:62], keep=1)
    for token in IDS[62:74]:
        sequence.forward(np.array([token]), keep=1)
    assert bound[::3] == [62, 63, 64, 68, 72, 76] and len(bound) == 18


def test_a_hit_replays_bit_for_bit_in_buffers_of_another_size(backend):
    cold, hit = backend.sequence(), backend.sequence()
    hit.reserve(3 * GROWTH)
    cold.forward(IDS[:128], keep=1)
    payload = cold.save(0, 128)
    assert (payload.shape, payload.dtype) == ((3, 1, 128, 40), np.float32)
    assert payload.nbytes == 128 * ROW
    expected = [cold.forward(IDS[128:149], keep=1).copy(), cold.forward(IDS[149:], keep=1).copy()]
    hit.restore(payload, 0, 128)
    assert (hit.forward(IDS[128:149], keep=1) == expected[0]).all()
    assert (hit.forward(IDS[149:], keep=1) == expected[1]).all()
    assert (hit.save(0, 150) == cold.save(0, 150)).all()


def test_buffers_grow_and_keep_what_they_hold(backend, expected, monkeypatch):
    monkeypatch.setattr(cache_buffers, "GROWTH", 8)
    sequence = backend.sequence()
    found = [sequence.forward(IDS[n : n + 1], keep=1)[0].copy() for n in range(40)]
    assert np.abs(np.array(found) - expected[:40]).max() < 1e-4


@pytest.mark.parametrize(
    "changes", [{"kinds": ["key", "value"]}, {"kinds": ["latent"] * 2}, {"kv_heads": 2}, {"head_dim": 41}], ids=str
)
def test_a_cache_that_is_not_the_graphs(artifact, changes):
    with pytest.raises(BadInputError, match="other inputs or outputs than its manifest implies"):
        load(artifact, cache=replace(artifact.manifest.cache, **changes))


def test_greedy_text_is_the_original_with_and_without_a_hit(artifact, checkpoint):
    prompt = [int(token) for token in IDS]
    greedy = SamplingParams(max_new_tokens=60, temperature=0, ignore_eos=True)
    with Engine.open(artifact.path, EngineConfig(threads=1)) as engine:
        first, second = engine.generate(prompt, greedy), engine.generate(prompt, greedy)
    with torch.no_grad():
        text = original(checkpoint).generate(
            torch.tensor([prompt]), max_new_tokens=60, min_new_tokens=60, do_sample=False, eos_token_id=None
        )
    assert list(first.token_ids) == text[0, 150:].tolist()
    assert list(second.token_ids) == list(first.token_ids)
    assert (first.usage.cached_tokens, second.usage.cached_tokens) == (0, 128)


def test_an_int8_cache_is_refused_before_any_text_is_read(checkpoint, tmp_path):
    options = ExportOptions(precision="w8a8", kv_cache="int8", calibration=tmp_path / "missing.txt")
    with pytest.raises(BadInputError, match="int8 is not available for glm4_moe_lite: it caches latents"):
        export(checkpoint, tmp_path / "out", options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_quantized_artifacts_answer(checkpoint, tmp_path, precision):
    found = export(checkpoint, tmp_path / "out", ExportOptions(precision=precision))
    products = {"fp16": 0, "int8": 2 * 4 * 3, "int4": 2 * 4 * 3}[precision]
    names = " ".join(str(name) for name in found.manifest.requires.operators)
    assert ("MatMulNBits" in names) == bool(products)
    with Engine.open(found.path, EngineConfig(threads=1)) as engine:
        assert np.isfinite(engine.logits([int(token) for token in IDS])).all()


def test_a_cut_export_leaves_the_other_layers_out(checkpoint, tmp_path):
    found = export(checkpoint, tmp_path / "out", ExportOptions(precision="fp32", layers=1))
    assert (found.manifest.model.layers, found.manifest.cache.layers) == (1, 1)
    with Engine.open(found.path, EngineConfig(threads=1)) as engine:
        assert engine.logits([1, 2, 3]).shape == (3, 2048)
