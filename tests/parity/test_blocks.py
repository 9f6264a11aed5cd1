"""Blocks for TensorRT 8.5 run one after the other equal transformers, across chunks and cache buckets."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.runtime.backends.token_table import TokenTable

sys.path.insert(0, str(Path(__file__).parents[1]))
from block_cases import export_blocks, open_chain
from shapes import original, reference_logits, write_shape

TOLERANCE = 1e-4
"""The bar is 1e-3."""
LENGTHS = {"plain": 240, "window_one_kv_head": 240, "glm": 240}
"""Others have 40 tokens."""
SHAPES = [
    ("plain", 1),
    ("untied", 2),
    ("yarn", None),
    ("window_one_kv_head", 2),
    ("odd_heads", None),
    ("bias", 3),
    ("odd_sizes", None),
    ("qwen2", None),
    ("llama_biases", None),
    ("mistral", 2),
    ("moe", None),
    ("moe_dense_between", 2),
    ("glm", None),
    ("glm_dense", 1),
    ("glm_direct_queries", None),
    ("glm_bias", None),
    ("glm_sparse_first", None),
]


@pytest.mark.parametrize(("shape", "block_layers"), SHAPES)
def test_a_chain_equals_transformers(shape, block_layers, tmp_path):
    checkpoint = write_shape(shape, tmp_path / "checkpoint")
    ids = np.random.default_rng(7).integers(0, 2000, LENGTHS.get(shape, 40))
    expected = reference_logits(original(checkpoint), ids[None])[0]
    with open_chain(export_blocks(checkpoint, tmp_path / "out", block_layers=block_layers)) as engine:
        assert np.abs(engine.logits(ids) - expected).max() < TOLERANCE


def test_steps_behind_a_full_bucket(tmp_path):
    """Token 256 is the last row of the first 256 that are bound, token 257 the first of the next."""
    checkpoint = write_shape("plain", tmp_path / "checkpoint", max_position_embeddings=512)
    ids = np.random.default_rng(8).integers(0, 2000, 262)
    expected = reference_logits(original(checkpoint), ids[None])[0]
    with open_chain(export_blocks(checkpoint, tmp_path / "out")) as engine, engine._sequences.use() as sequence:
        sequence.forward(ids[:128], 1)
        sequence.forward(ids[128:250], 1)
        found = [sequence.forward(ids[i : i + 1], 1)[0].copy() for i in range(250, 262)]
    assert np.abs(np.stack(found) - expected[250:]).max() < TOLERANCE


def test_an_untied_table_has_a_file_of_its_own(tmp_path):
    checkpoint = write_shape("untied", tmp_path / "checkpoint")
    artifact = Artifact.open(export_blocks(checkpoint, tmp_path / "out"))
    table = artifact.manifest.table
    assert table is not None and (table.file, table.offset, table.scales_offset) == ("embedding.data", 0, None)
    assert artifact.manifest.files["embedding.data"].size == 4 * table.rows * table.columns
    with Checkpoint.open(checkpoint) as source:
        exact = source.tensor("model.embed_tokens.weight")
    assert np.array_equal(TokenTable(artifact.path, artifact.manifest).rows(np.array([5, 0])), exact[[5, 0]])
