"""Blocks for TensorRT 10.15 run one after the other equal transformers, and its linter accepts them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from inference_pio.graphs.lint import find_dialect
from inference_pio.graphs.lint.linter import lint
from inference_pio.runtime import SamplingParams

sys.path.insert(0, str(Path(__file__).parents[1]))
from block_cases import export_blocks, open_chain
from shapes import original, reference_logits, write_shape

TOLERANCE = 1e-4
"""The bar is 1e-3."""
HALF_TOLERANCE = 4e-3
"""Of the mean error in float16, as a share of the mean logit; random weights are rounded too."""


@pytest.mark.parametrize(
    ("shape", "tokens"),
    [("plain", 240), ("window_one_kv_head", 240), ("odd_heads", 40), ("moe_dense_between", 40), ("glm", 150)],
)
def test_a_chain_equals_transformers(shape, tokens, tmp_path):
    checkpoint = write_shape(shape, tmp_path / "checkpoint")
    ids = np.random.default_rng(7).integers(0, 2000, tokens)
    expected = reference_logits(original(checkpoint), ids[None])[0]
    out = export_blocks(checkpoint, tmp_path / "out", hardware="sm80", block_layers=2)
    with open_chain(out) as engine:
        assert np.abs(engine.logits(ids) - expected).max() < TOLERANCE
    for file in [*out.glob("block-*.onnx"), out / "head.onnx"]:
        assert lint(file, find_dialect("modern")).accepted, file


@pytest.mark.parametrize(("shape", "tokens"), [("window_one_kv_head", 140), ("moe_dense_between", 40), ("glm", 140)])
def test_float16_stays_close(shape, tokens, tmp_path):
    checkpoint = write_shape(shape, tmp_path / "checkpoint")
    ids = np.random.default_rng(9).integers(0, 2000, tokens)
    expected = reference_logits(original(checkpoint), ids[None])[0]
    out = export_blocks(checkpoint, tmp_path / "out", "fp16", hardware="sm80", block_layers=2)
    with open_chain(out) as engine:
        apart = np.abs(engine.logits(ids) - expected)
    assert 0 < apart.mean() < HALF_TOLERANCE * np.abs(expected).mean(), apart.mean() / np.abs(expected).mean()
    for file in [*out.glob("block-*.onnx"), out / "head.onnx"]:
        assert lint(file, find_dialect("modern")).accepted, file


def test_steps_into_a_cache_that_grows(tmp_path):
    checkpoint = write_shape("plain", tmp_path / "checkpoint", max_position_embeddings=600)
    ids = np.random.default_rng(8).integers(0, 2000, 262)
    expected = reference_logits(original(checkpoint), ids[None])[0]
    out = export_blocks(checkpoint, tmp_path / "out", hardware="sm80")
    with open_chain(out) as engine, engine._sequences.use() as sequence:
        sequence.forward(ids[:128], 1)
        sequence.forward(ids[128:250], 1)
        found = [sequence.forward(ids[i : i + 1], 1)[0].copy() for i in range(250, 262)]
    assert np.abs(np.stack(found) - expected[250:]).max() < TOLERANCE


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_prefix_cache_changes_nothing(block_artifact, precision):
    with open_chain(block_artifact(precision, "sm86")) as engine:
        prompt, params = "def read_file(path):\n    " * 40, SamplingParams(max_new_tokens=8, temperature=0)
        cold, warm = (engine.generate(prompt, params) for _ in range(2))
    assert cold.usage.cached_tokens == 0 < warm.usage.cached_tokens
    assert cold.token_ids == warm.token_ids
