"""How the caches of all backends grow, and what that costs the memory budget."""

from __future__ import annotations

import numpy as np
import pytest

from inference_pio.errors import ResourceLimitError
from inference_pio.runtime.backends.cached_sequence import CachedSequence
from inference_pio.runtime.memory import MemoryBudget

BYTES = 10


class Noting(CachedSequence):
    """Notes what it is asked for."""

    error: Exception | None = None

    def place(self, positions: np.ndarray, ahead: int) -> None:
        self.placed = positions.shape, ahead

    def _resize(self, capacity: int) -> None:
        if self.error is not None:
            raise self.error

    def _write(self, payload: np.ndarray, start: int, stop: int) -> None:
        self.written = start, stop, self._capacity

    def _free(self) -> None:
        if self.error is not None:
            raise self.error


def test_room_grows_by_a_quarter_in_whole_steps() -> None:
    budget = MemoryBudget(None)
    sequence, rooms = Noting(budget, BYTES), []
    for tokens in (1, 256, 257, 2049, 2305):
        sequence.reserve(tokens)
        rooms.append(budget.taken // BYTES)
    assert rooms == [256, 256, 512, 2304, 3072]
    sequence.release()
    assert budget.taken == 0


def test_room_ahead_ends_at_the_most_and_fixed_room_is_taken_at_once() -> None:
    budget = MemoryBudget(None)
    sequence = Noting(budget, BYTES, most=2560)
    sequence.reserve(2304)
    sequence.reserve(2305)
    assert budget.taken == 2560 * BYTES
    sequence.release()
    Noting(budget, BYTES, most=2560, fixed=2560).reserve(1)
    assert budget.taken == 2560 * BYTES


def test_what_was_saved_comes_back_and_is_forgotten() -> None:
    sequence = Noting(MemoryBudget(None), BYTES)
    sequence.restore(np.zeros(0), 128, 300)
    assert (sequence.length, sequence.written) == (300, (128, 300, 512))
    sequence.clear()
    assert (sequence.length, sequence.placed) == (0, ((3, 0), 0))


def test_the_budget_is_given_back_whatever_happens() -> None:
    budget = MemoryBudget(None)
    sequence = Noting(budget, BYTES)
    sequence.error = MemoryError()
    with pytest.raises(ResourceLimitError, match="there is no memory for a key/value cache of 256 tokens"):
        sequence.reserve(1)
    sequence.error = RuntimeError("the driver is gone")
    with pytest.raises(RuntimeError, match="the driver is gone"):
        sequence.release()
    assert budget.taken == 0
    sequence.error = None
    sequence.release()
    assert budget.taken == 0
