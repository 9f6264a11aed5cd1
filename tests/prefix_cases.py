"""A prefix cache with blocks of two tokens, filled with payloads that tell where they belong."""

from __future__ import annotations

import numpy as np

from inference_pio.runtime.prefix_cache import RadixPrefixCache

BLOCK = 2
KEY_BYTES = BLOCK * 4


def payload(size: int, value: int = 0) -> np.ndarray:
    return np.full(size, value, np.uint8)


def filled(budget: int = 10_000, sizes=(10, 10, 10)) -> RadixPrefixCache:
    """A chain over the tokens 0, 1, 2, ... with payloads 1, 2, 3, ..."""
    cache = RadixPrefixCache(BLOCK, budget)
    for index, size in enumerate(sizes, 1):
        assert cache.put(range(index * BLOCK), payload(size, index))
    return cache
