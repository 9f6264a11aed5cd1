"""Steps of an int8 key/value cache, one per head and channel, from what calibration saw of keys and values.

Keys are cached after the rotary embedding, which turns each pair of channels (i, i + D/2) by an angle that grows with
the position. A pair keeps its length while it turns, so one step for both channels, from the longest pair, holds at
every position, also at those that calibration never reached.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inference_pio.errors import BadInputError

LARGEST = 127
"""What the largest magnitude seen becomes; beyond it values clip to -128 and 127."""


@dataclass(frozen=True)
class KvScales:
    """Steps of one layer's cache: float32 [kv_heads, head_dim] each; a cached integer times its step is the value.

    A step of 0 stands for a channel that never held anything, and counts as 1.
    """

    key: np.ndarray
    value: np.ndarray


def key_scales(keys: np.ndarray, rope_scaling: float = 1.0) -> np.ndarray:
    """Steps float32 [kv_heads, head_dim] that hold `keys` [tokens, kv_heads, head_dim] turned by any angle.

    `keys` are those before the rotary embedding; `rope_scaling` is the factor in its cos and sin (YaRN). The steps of
    several batches combine by `np.maximum`. Raises BadInputError for NaN and infinity.
    """
    half = keys.shape[-1] // 2
    first, second = (np.asarray(part, np.float64) for part in (keys[..., :half], keys[..., half:]))
    longest = np.sqrt((first**2 + second**2).max(axis=0, initial=0.0))
    return _steps(np.concatenate([longest, longest], axis=-1) * rope_scaling, "keys")


def value_scales(values: np.ndarray) -> np.ndarray:
    """Steps float32 [kv_heads, head_dim] for `values` [tokens, kv_heads, head_dim]; batches combine by `np.maximum`.

    Raises BadInputError for NaN and infinity.
    """
    return _steps(np.abs(np.asarray(values, np.float64)).max(axis=0, initial=0.0), "values")


def round_trip(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """What float32 `values` [..., kv_heads, head_dim] read as once they were in the cache; keys after the rotation."""
    steps = np.where(scales == 0, np.float32(1), scales).astype(np.float32)
    codes = np.clip(np.rint(values * (np.float32(1) / steps)), -LARGEST - 1, LARGEST)
    return (codes * steps).astype(np.float32)


def check_scales(scales: KvScales, layer: int, kv_heads: int, head_dim: int) -> None:
    """Raise BadInputError when steps have the wrong shape or sign, or differ within a rotary pair."""
    where = f"layer {layer}'s key/value scales"
    for name, steps in (("key", scales.key), ("value", scales.value)):
        if steps.shape != (kv_heads, head_dim):
            raise BadInputError(
                f"{where} are for {' x '.join(map(str, steps.shape))} {name} channels and the model has "
                f"{kv_heads} heads of {head_dim}: calibrate this model again"
            )
        if not (np.isfinite(steps).all() and (steps >= 0).all()):
            raise BadInputError(f"{where} hold a {name} step that is negative or not finite: calibrate again")
    if (scales.key[:, : head_dim // 2] != scales.key[:, head_dim // 2 :]).any():
        raise BadInputError(f"{where} differ between two channels that the rotary embedding mixes: calibrate again")


def _steps(largest: np.ndarray, what: str) -> np.ndarray:
    if not np.isfinite(largest).all():
        raise BadInputError(f"the {what} that calibration saw hold NaN or infinity: check the checkpoint and its text")
    return (largest / LARGEST).astype(np.float32)
