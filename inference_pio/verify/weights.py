"""Where the reference model takes its weights from: the checkpoint, or the artifact's own dequantized values."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from inference_pio.checkpoint.checkpoint import Checkpoint


@dataclass(frozen=True)
class InputRounding:
    """How a linear layer's input [..., K] is rounded to int8, symmetrically.

    With `step` None the largest magnitude of a row and block becomes 127; a `block` of None is the whole row. A fixed
    `step` serves all rows, and what lies beyond 127 steps is clipped. `exact` columns are left as they are.
    """

    block: int | None = None
    step: float | None = None
    exact: tuple[int, ...] = ()


class ModelWeights(Protocol):
    """Weights by checkpoint tensor name; every array is float32."""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The tensor's shape, or None when there is no such tensor."""

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of a tensor, as a linear layer or a norm uses them."""

    def embedding_rows(self, name: str, ids: np.ndarray) -> np.ndarray:
        """Rows `ids` (int64, rising) of a token embedding, [len(ids), hidden]."""

    def input_rounding(self, name: str) -> InputRounding | None:
        """How the input of the linear layer `name` is rounded to int8, or None for not at all."""

    def cache_steps(self, layer: int) -> CacheSteps | None:
        """How a layer's keys and values are rounded before anything attends to them, or None for not at all."""


@dataclass(frozen=True)
class CacheSteps:
    """Steps of an int8 key/value cache, float32 [kv_heads, head_dim]; keys are rounded after their rotation."""

    key: np.ndarray
    value: np.ndarray


class TwinWeights:
    """The same weights but for a `disturbance` of embeddings, norms and biases, as a share of each value.

    That is what another order of summation does to activations, or their rounding to sixteen bits, in every layer anew.
    Where kernels round them to eight bits, it grows. Disturbed embeddings alone are too little: fixed steps round them
    away, and the residual stream drowns them.
    """

    def __init__(self, weights: ModelWeights, disturbance: float) -> None:
        self._weights = weights
        self._disturbance = np.float32(disturbance)

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self._weights.shape(name)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        rows = self._weights.rows(name, start, stop)
        return self._disturbed(rows, zlib.crc32(name.encode())) if rows.ndim == 1 else rows

    def embedding_rows(self, name: str, ids: np.ndarray) -> np.ndarray:
        return self._disturbed(self._weights.embedding_rows(name, ids), 0)

    def _disturbed(self, values: np.ndarray, seed: int) -> np.ndarray:
        noise = np.random.default_rng(seed).standard_normal(values.shape, dtype=np.float32)
        disturbed: np.ndarray = values * (1 + self._disturbance * noise)
        return disturbed

    def input_rounding(self, name: str) -> InputRounding | None:
        return self._weights.input_rounding(name)

    def cache_steps(self, layer: int) -> CacheSteps | None:
        return self._weights.cache_steps(layer)


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

    def input_rounding(self, name: str) -> InputRounding | None:
        return None

    def cache_steps(self, layer: int) -> CacheSteps | None:
        return None
