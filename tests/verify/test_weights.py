"""The original's weights, and their twin."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.verify.weights import CheckpointWeights, TwinWeights

TABLE = "model.embed_tokens.weight"
NORM = "model.norm.weight"


def test_rows_of_the_checkpoint(tiny: Path) -> None:
    with Checkpoint.open(tiny) as checkpoint:
        weights = CheckpointWeights(checkpoint)
        table = checkpoint.tensor(TABLE)
        assert weights.shape(TABLE) == table.shape
        assert weights.shape("no.such.tensor") is None
        assert (weights.rows(TABLE, 5, 9) == table[5:9]).all()
        assert (weights.embedding_rows(TABLE, np.array([0, 7, 2047])) == table[[0, 7, 2047]]).all()
        assert weights.input_rounding(TABLE) is None


def test_a_twin_differs_in_the_last_bits_of_embeddings_and_norms_alone(tiny: Path) -> None:
    ids = np.arange(2048)
    with Checkpoint.open(tiny) as checkpoint:
        weights = CheckpointWeights(checkpoint)
        twin = TwinWeights(weights, 1e-6)
        exact, disturbed = weights.embedding_rows(TABLE, ids), twin.embedding_rows(TABLE, ids)
        assert disturbed.dtype == np.float32
        assert 1e-7 < np.abs(disturbed / exact - 1)[exact != 0].mean() < 2e-6
        assert (disturbed == twin.embedding_rows(TABLE, ids)).all()
        assert (twin.rows(TABLE, 0, 9) == weights.rows(TABLE, 0, 9)).all()
        norm, other = weights.rows(NORM, 0, 160), twin.rows(NORM, 0, 160)
        assert other.dtype == np.float32
        assert 1e-7 < np.abs(other / norm - 1).mean() < 2e-6
        assert (other == twin.rows(NORM, 0, 160)).all()
        assert twin.shape(NORM) == weights.shape(NORM)
        assert twin.input_rounding(NORM) is None
