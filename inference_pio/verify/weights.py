"""Where the reference model takes its weights from: the checkpoint, or the artifact's own dequantized values."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from inference_pio.checkpoint.checkpoint import Checkpoint


class ModelWeights(Protocol):
    """Weights by checkpoint tensor name; every array is float32."""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The tensor's shape, or None when there is no such tensor."""

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of a tensor, as a linear layer or a norm uses them."""

    def embedding_rows(self, name: str, ids: np.ndarray) -> np.ndarray:
        """Rows `ids` (int64, rising) of a token embedding, [len(ids), hidden]."""

    def activation_block(self, name: str) -> int | None:
        """Block size in which the input of the linear layer `name` is rounded to int8, or None for not at all."""


class TwinWeights:
    """The same weights but for a disturbance of the embeddings by about one part in a million.

    That is what another order of summation does to activations. Where kernels round them, it grows.
    """

    DISTURBANCE = np.float32(1e-6)

    def __init__(self, weights: ModelWeights) -> None:
        self._weights = weights

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self._weights.shape(name)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return self._weights.rows(name, start, stop)

    def embedding_rows(self, name: str, ids: np.ndarray) -> np.ndarray:
        rows = self._weights.embedding_rows(name, ids)
        noise = np.random.default_rng(0).standard_normal(rows.shape, dtype=np.float32)
        disturbed: np.ndarray = rows * (1 + self.DISTURBANCE * noise)
        return disturbed

    def activation_block(self, name: str) -> int | None:
        return self._weights.activation_block(name)


class CheckpointWeights:
    """The original's weights, read a few rows at a time."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def shape(self, name: str) -> tuple[int, ...] | None:
        info = self._checkpoint.tensors.get(name)
        return None if info is None else tuple(info.shape)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return self._checkpoint.rows(name, start, stop)

    def embedding_rows(self, name: str, ids: np.ndarray) -> np.ndarray:
        return np.concatenate([self._checkpoint.rows(name, int(i), int(i) + 1) for i in ids])

    def activation_block(self, name: str) -> int | None:
        return None
