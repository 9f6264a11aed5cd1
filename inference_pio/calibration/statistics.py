"""What is kept of a tap's activations while samples stream by: a histogram, second moments, a few whole rows."""

from __future__ import annotations

import numpy as np

from inference_pio.calibration.gptq import gram_dtype
from inference_pio.calibration.observers import Observer
from inference_pio.calibration.taps import Tap

KEPT_ROWS = 512
"""Rows of activations that candidates (smoothing strengths, scales) are judged on."""
MASSIVE = 16.0
"""A channel is massive when its largest magnitude is this many times the median token's largest."""
MOST_MASSIVE = 1 / 32
"""Above this share of massive channels whole tokens are large, which no choice of channels can help."""


def rows_of_each(samples: int, length: int) -> int:
    """How many rows are kept of each of `samples` samples of `length` tokens."""
    return min(max(2, -(-KEPT_ROWS // samples)), length)


def kept_rows(x_SK: np.ndarray, samples: int) -> np.ndarray:
    """What one of `samples` samples adds to the rows that are kept: its first row, its last, and some between them."""
    return x_SK[np.linspace(0, len(x_SK) - 1, rows_of_each(samples, len(x_SK))).astype(np.int64)]


class TapStatistics:
    """Statistics of one tap over all samples, the same whatever chunks the samples came in.

    `gram` asks for X^T X [K, K], float64 or float32 as `gptq.gram_dtype` says; without it only its diagonal is kept.
    """

    def __init__(self, tap: Tap, samples: int, gram: bool) -> None:
        self.tap = tap
        self.observer = Observer(f"the inputs of {tap.name}", tap.columns)
        self._samples = samples
        self._rows: list[np.ndarray] = []
        self._row_maxima: list[np.ndarray] = []
        self._squares = np.zeros(tap.columns, np.float64)
        self._gram = np.zeros((tap.columns, tap.columns), gram_dtype(tap.columns)) if gram else None
        self._tokens = 0

    def update(self, x_SK: np.ndarray) -> None:
        """Take in one sample's activations, float32 [tokens, K]; raises BadInputError for NaN or infinity."""
        self.observer.update(x_SK)
        self._rows.append(kept_rows(x_SK, self._samples))
        self._row_maxima.append(np.abs(x_SK).max(axis=1))
        self._squares += np.einsum("tk,tk->k", x_SK, x_SK, dtype=np.float64)
        if self._gram is not None:
            self._gram += x_SK.T @ x_SK
        self._tokens += len(x_SK)

    def rows(self) -> np.ndarray:
        """Some rows of every sample, the first and the last token among them: float32 [rows, K]."""
        return np.concatenate(self._rows)

    def channel_max(self) -> np.ndarray:
        """float32 [K]."""
        return self.observer.channel_max()

    def importance(self) -> np.ndarray:
        """Mean squared activation of every channel, float32 [K]."""
        return (self._squares / max(self._tokens, 1)).astype(np.float32)

    def take_gram(self, factors_K: np.ndarray) -> np.ndarray:
        """X^T X of the activations divided by `factors_K`; once only, because it is too large to be held twice."""
        gram, self._gram = self._gram, None
        assert gram is not None
        gram /= factors_K[:, None].astype(gram.dtype)
        gram /= factors_K[None, :].astype(gram.dtype)
        return gram

    def massive_channels(self) -> tuple[int, ...]:
        """Channels that are huge on few tokens and would take all levels from the rest of these tokens."""
        typical = float(np.median(np.concatenate(self._row_maxima)))
        found = np.flatnonzero(self.channel_max() > MASSIVE * typical) if typical > 0 else np.zeros(0, np.int64)
        return tuple(int(i) for i in found) if len(found) <= max(1, MOST_MASSIVE * self.tap.columns) else ()
