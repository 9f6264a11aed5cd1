"""The rotary angles of a sequence whose tokens have three positions: a row per token, kept where the graph reads it."""

from __future__ import annotations

import numpy as np

from inference_pio.artifact.manifest import PositionSpec


class RotaryTables:
    """`cos` and `sin`, float32 [capacity, head_dim / 2].

    A token stands at its index in all three positions, plus `ahead`, unless `place` says something else.
    """

    def __init__(self, spec: PositionSpec) -> None:
        self._frequencies = np.array(spec.inverse_frequencies, np.float32)
        self._streams = np.array(spec.streams, np.int64)
        self._scaling = np.float32(spec.scaling)
        self.cos = np.zeros((0, len(self._frequencies)), np.float32)
        self.sin = self.cos.copy()
        self._positions = np.zeros((3, 0), np.int64)
        self._ahead = 0

    def resize(self, capacity: int) -> None:
        """New arrays of `capacity` rows, all of them filled."""
        self.cos = np.empty((capacity, len(self._frequencies)), np.float32)
        self.sin = np.empty_like(self.cos)
        self._fill()

    def place(self, positions: np.ndarray, ahead: int) -> None:
        """Give the first tokens these positions, int64 [3, tokens], and all later ones their index plus `ahead`."""
        if positions.shape[1] or self._positions.shape[1]:
            self._positions, self._ahead = positions, ahead
            self._fill()

    def _fill(self) -> None:
        rows, placed = len(self.cos), self._positions[:, : len(self.cos)]
        later = np.arange(placed.shape[1], rows) + self._ahead
        positions = np.concatenate([placed, np.broadcast_to(later, (3, len(later)))], axis=1)
        angles = positions[self._streams].T.astype(np.float32) * self._frequencies
        for table, function in ((self.cos, np.cos), (self.sin, np.sin)):
            table[:] = function(angles.astype(np.float64)).astype(np.float32) * self._scaling
