"""What the sequences of all backends share: their length, and what their caches take of the memory budget."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from inference_pio.errors import ResourceLimitError
from inference_pio.runtime.backends.cache_buffers import grown_capacity
from inference_pio.runtime.memory import MemoryBudget


class CachedSequence(ABC):
    """A sequence whose cache grows in steps; `most` is the room up to which it grows ahead of what is asked for.

    A cache of `fixed` tokens has all its room from the first one on.

    See `Sequence` in `backend` for the methods.
    """

    def __init__(
        self, budget: MemoryBudget, bytes_per_token: int, most: int = 1 << 62, fixed: int | None = None
    ) -> None:
        self.length = 0
        self.run_seconds = 0.0
        self._capacity = 0
        """Tokens that the buffers have room for."""
        self._budget, self._bytes_per_token, self._most, self._fixed = budget, bytes_per_token, most, fixed
        self._taken = 0
        """Bytes of the budget."""

    def reserve(self, tokens: int) -> None:
        if tokens <= self._capacity:
            return
        capacity = self._fixed or grown_capacity(tokens, self._capacity, self._most)
        size, what = capacity * self._bytes_per_token, f"a key/value cache of {capacity} tokens"
        self._budget.take(size - self._taken, what)
        self._taken = size
        try:
            self._resize(capacity)
        except MemoryError:
            raise ResourceLimitError(f"there is no memory for {what}: ask for fewer, or lower max_context") from None
        self._capacity = capacity

    def restore(self, payload: np.ndarray, start: int, stop: int) -> None:
        self.reserve(stop)
        self._write(payload, start, stop)
        self.length = stop

    def clear(self) -> None:
        self.length = 0
        self.run_seconds = 0.0
        self.place(np.zeros((3, 0), np.int64), 0)

    def release(self) -> None:
        self._free()
        self._budget.give(self._taken)
        self._taken = 0

    @abstractmethod
    def place(self, positions: np.ndarray, ahead: int) -> None:
        """As that of `Sequence`."""

    @abstractmethod
    def _resize(self, capacity: int) -> None:
        """Make room for `capacity` tokens instead of `_capacity`, and keep the first `length`."""

    @abstractmethod
    def _write(self, payload: np.ndarray, start: int, stop: int) -> None:
        """Put what `save` returned into positions `start` to `stop`, for which there is room."""

    @abstractmethod
    def _free(self) -> None:
        """Let go of all buffers."""
