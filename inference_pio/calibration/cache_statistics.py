"""The steps of an int8 cache, gathered while samples stream by."""

from __future__ import annotations

import numpy as np

from inference_pio.calibration.taps import CacheTaps
from inference_pio.graphs.kv_scales import KvScales, key_scales, value_scales


class CacheStatistics:
    """The steps that hold all keys and values of one layer seen so far; see `graphs.kv_scales`."""

    def __init__(self, taps: CacheTaps, rope_scaling: float) -> None:
        self._heads, self._rope_scaling = taps.kv_heads, rope_scaling
        self._scales: KvScales | None = None

    def update(self, key_SN: np.ndarray, value_SN: np.ndarray) -> None:
        """One sample's keys before rotation and values, float32 [tokens, G * D]."""
        keys, values = (x.reshape(len(x), self._heads, -1) for x in (key_SN, value_SN))
        new = KvScales(key_scales(keys, self._rope_scaling), value_scales(values))
        if self._scales is not None:
            new = KvScales(np.maximum(self._scales.key, new.key), np.maximum(self._scales.value, new.value))
        self._scales = new

    def arrays(self, layer: int) -> dict[str, np.ndarray]:
        """`cache.LAYER.key` and `.value`, float32 [G, D]."""
        assert self._scales is not None
        return {f"cache.{layer}.key": self._scales.key, f"cache.{layer}.value": self._scales.value}
