"""Running the streamed reference and the whole model of transformers over the same windows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.verify import reference
from inference_pio.verify.scratch import LogitsFile
from inference_pio.verify.weights import CheckpointWeights, InputRounding

LENGTHS = (90, 90, 33)
TOLERANCE = 1e-5
"""Relative to the largest logit: float32 sums in another order."""


def make_windows(vocabulary: int, lengths: tuple[int, ...] = LENGTHS) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [rng.integers(0, vocabulary, length) for length in lengths]


def streamed(
    path: Path,
    windows: list[np.ndarray],
    weights: CheckpointWeights | None = None,
    layers: int | None = None,
    threads: int | None = 1,
) -> np.ndarray:
    positions = sum(len(window) for window in windows)
    vocabulary = json.loads((path / "config.json").read_text())["vocab_size"]
    with Checkpoint.open(path) as checkpoint, LogitsFile(path, positions, vocabulary) as sink:
        reference.write_logits(path, weights or CheckpointWeights(checkpoint), windows, sink, layers, threads)
        return sink.read(0, positions)


def whole(model: torch.nn.Module, windows: list[np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate([model(torch.tensor(window)[None]).logits[0].numpy() for window in windows])


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()
    assert np.abs(theirs).max() > 1


class SpyingWeights(CheckpointWeights):
    """Counts the rows that are read, and lets every kernel round its input."""

    def __init__(self, checkpoint: Checkpoint, block: int | None) -> None:
        super().__init__(checkpoint)
        self.block = block
        self.read: dict[str, int] = {}

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        self.read[name] = self.read.get(name, 0) + stop - start
        return super().rows(name, start, stop)

    def input_rounding(self, name: str) -> InputRounding | None:
        return None if self.block is None else InputRounding(self.block)


def change_config(path: Path, **changes: object) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))
