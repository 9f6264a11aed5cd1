"""A budget of bytes that weights and caches draw on."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from inference_pio.errors import ResourceLimitError


class MemoryBudget:
    """Counts what is taken against `limit` bytes (None: no limit). Thread-safe."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.taken = 0
        self.reclaim: Callable[[], None] | None = None
        """Gives back what is kept in reserve; called when something does not fit, which then is tried again."""
        self._lock = Lock()

    def take(self, size: int, what: str) -> None:
        """Reserve `size` bytes; raises ResourceLimitError that says what did not fit and what would."""
        if self.reclaim is not None and not self._fits(size):
            self.reclaim()
        with self._lock:
            if self.limit is not None and not self._fits(size):
                raise ResourceLimitError(
                    f"{what} needs {_mb(size)} beside the {_mb(self.taken)} in use, and max_memory allows "
                    f"{_mb(self.limit)}: raise it to at least {_mb(self.taken + size)} or ask for fewer tokens"
                )
            self.taken += size

    def give(self, size: int) -> None:
        """Return `size` bytes."""
        with self._lock:
            self.taken -= size

    def _fits(self, size: int) -> bool:
        return self.limit is None or self.taken + size <= self.limit


def _mb(size: int) -> str:
    return f"{-(-size // 1_000_000)} MB"
