"""What the engine needs of a backend."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from inference_pio.runtime.candidates import Candidates, Query
from inference_pio.runtime.vision.features import ChunkImages

Scores = np.ndarray | Candidates
"""What may follow a token: float32 logits [V], or the best of them."""


class Sequence(Protocol):
    """One row of tokens and its key/value cache. Not thread-safe: the engine runs one step at a time.

    After an error in any method a sequence can only be released.
    """

    length: int
    """Tokens whose keys and values are in the cache."""
    run_seconds: float
    """Time spent inside the runtime library since `clear`."""

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` in all; raises ResourceLimitError when the memory budget does not allow it."""

    def place(self, positions: np.ndarray, ahead: int) -> None:
        """Give the first tokens these three positions, int64 [3, n], and all later ones their index plus `ahead`."""

    def forward(self, tokens: np.ndarray, keep: int, images: ChunkImages | None = None) -> np.ndarray:
        """Append int64 `tokens` [S] and return the logits of the last `keep` positions, float32 [keep, V].

        Where `images` say so, features stand in the tokens' places. The result is overwritten by the next call.
        """

    def advance(self, tokens: np.ndarray, query: Query, images: ChunkImages | None = None) -> Scores:
        """As `forward` of the last position alone; a device answers the query instead of copying all logits.

        The result is overwritten by the next call.
        """

    def save(self, start: int, stop: int) -> np.ndarray:
        """A copy of the cache of positions `start` to `stop`, one contiguous array."""

    def restore(self, payload: np.ndarray, start: int, stop: int) -> None:
        """Put back what `save` returned; the sequence then has length `stop`."""

    def clear(self) -> None:
        """Forget the tokens and keep the buffers."""

    def release(self) -> None:
        """Give the buffers back to the memory budget; the sequence is unusable afterwards."""


class Backend(Protocol):
    """An artifact loaded into a runtime library."""

    def sequence(self) -> Sequence:
        """A new, empty sequence."""

    def close(self) -> None:
        """Release the weights."""
