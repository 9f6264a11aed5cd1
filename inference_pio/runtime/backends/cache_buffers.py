"""How large the buffers of a key/value cache are, and those in the host's memory."""

from __future__ import annotations

import numpy as np

from inference_pio.artifact.cache_rows import BUCKET
from inference_pio.artifact.manifest import CacheSpec

GROWTH = BUCKET
"""Cache capacity grows in steps of this many tokens, or a quarter of what is there."""
ITEMS = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16, "int8": np.int8}
"""Of a manifest's cache dtype, numpy's type of one element."""
SLAB_BYTES = 16 << 20
"""Cache buffers are cut from pieces of at least this size, which get huge pages where there are any (numpy asks for
them from 4 MB on); over small pages reading an int8 cache takes up to twice as long."""


def grown_capacity(tokens: int, capacity: int, most: int) -> int:
    """The tokens that buffers get room for which had room for `capacity` and shall hold `tokens`, which are more.

    What is added ahead of `tokens` goes up to `most`.
    """
    return -(-max(tokens, min(capacity + capacity // 4, most)) // GROWTH) * GROWTH


def host_buffers(spec: CacheSpec, capacity: int) -> list[np.ndarray]:
    """Zeros [1, kv_heads, capacity, head_dim] per layer and kind (keys, values), layer by layer."""
    dtype, shape = ITEMS[spec.dtype], (1, spec.kv_heads, capacity, spec.head_dim)
    each = len(spec.kinds) * spec.layers
    slab = min(each, max(1, -(-SLAB_BYTES * each // (capacity * spec.bytes_per_token))))
    sizes = [min(slab, each - start) for start in range(0, each, slab)]
    return [buffer for size in sizes for buffer in np.zeros((size, *shape), dtype)]
