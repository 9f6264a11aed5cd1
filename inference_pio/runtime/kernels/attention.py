"""Attention of one new token over an int8 cache on the GPU, in the layout and with the steps of the int8 recipes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inference_pio.errors import BadInputError
from inference_pio.runtime.kernels.driver import DeviceArray, Driver
from inference_pio.runtime.kernels.kernels import Kernels
from inference_pio.runtime.kernels.plans import Launch, attend_plan


class Lengths:
    """Tokens in each row's cache, the new one included; copied to the GPU once a step, for all layers."""

    def __init__(self, driver: Driver, rows: int) -> None:
        self.numbers = [0] * rows
        self.array = DeviceArray(driver, (rows,), np.int32)

    def set(self, numbers: Sequence[int]) -> None:
        """Take one positive number for each row; raises BadInputError for others."""
        if len(numbers) != len(self.numbers) or not all(0 < number < 2**31 for number in numbers):
            raise BadInputError(f"lengths must be {len(self.numbers)} numbers of at least 1, not {list(numbers)}")
        self.numbers = list(numbers)
        self.array.write(np.array(numbers, np.int32))

    def free(self) -> None:
        """Give the memory back."""
        self.array.free()


class Int8Cache:
    """One layer's keys and values int8 [B, K, capacity, D] with steps float32 [K, D], and attention over them.

    A cached integer times its step is the value; a step of 0 stands for a channel that never held anything, and counts
    as 1. `heads` query heads share the K key heads in order. Raises BadInputError for shapes without a kernel and
    ResourceLimitError when the GPU has no room.
    """

    def __init__(
        self, kernels: Kernels, rows: int, capacity: int, heads: int, key_steps: np.ndarray, value_steps: np.ndarray
    ) -> None:
        if key_steps.ndim != 2 or key_steps.shape != value_steps.shape:
            raise BadInputError("key and value steps must both be [key heads, head size]: calibrate again")
        self.rows, self.capacity, self.heads = rows, capacity, heads
        self.kv_heads, self.head_dim = key_steps.shape
        self.key_steps, self.value_steps = _positive(key_steps), _positive(value_steps)
        self._kernels, driver = kernels, kernels.driver
        self._plan = attend_plan(driver.limits, rows, heads, self.kv_heads, self.head_dim, capacity)
        self._arrays: list[DeviceArray] = []
        try:
            shape = (rows, self.kv_heads, capacity, self.head_dim)
            self.keys, self.values = self._array(shape, np.int8), self._array(shape, np.int8)
            self._key_steps, self._value_steps = self._copy(self.key_steps), self._copy(self.value_steps)
            parts = (rows, heads, self._plan.splits)
            self._partial = self._array((*parts, self.head_dim), np.float32)
            self._stats = self._array((*parts, 2), np.float32)
        except BaseException:
            self.free()
            raise

    def store(self, k: DeviceArray, v: DeviceArray, lengths: Lengths) -> None:
        """Round one token's keys (rotated) and values float32 [B, K, D] into the cache, as last of `lengths`."""
        for what, array in (("keys", k), ("values", v)):
            array.expect(f"new {what}", (self.rows, self.kv_heads, self.head_dim), np.float32)
        self._fit(lengths)
        plan = Launch("cache_store", (self.kv_heads, self.rows, 1), self.head_dim)
        steps, caches = (self._key_steps, self._value_steps), (self.keys, self.values)
        self._kernels.launch(plan, k, v, *steps, *caches, lengths.array, self.capacity)

    def attend(self, q: DeviceArray, lengths: Lengths, y: DeviceArray, scale: float) -> None:
        """y float32 [B, H, D] = softmax(scale * q keys) values over each row's first tokens.

        `q` float32 [B, H, D] is rotated; NaN or infinity in a head gives NaN in that head's result.
        """
        for what, array in (("queries", q), ("the result", y)):
            array.expect(what, (self.rows, self.heads, self.head_dim), np.float32)
        self._fit(lengths)
        shape = (self.heads, self.kv_heads, self.capacity)
        cached = (self.keys, self.values, self._key_steps, lengths.array)
        self._kernels.launch(self._plan.attend, q, *cached, self._partial, self._stats, *shape, float(scale))
        parts = (self._partial, self._stats, self._value_steps)
        self._kernels.launch(self._plan.merge, *parts, y, self._plan.splits, self.kv_heads)

    def free(self) -> None:
        """Give the memory back."""
        for array in self._arrays:
            array.free()

    def _fit(self, lengths: Lengths) -> None:
        if len(lengths.numbers) != self.rows or not all(0 < number <= self.capacity for number in lengths.numbers):
            raise BadInputError(f"lengths must be {self.rows} from 1 to {self.capacity}, not {lengths.numbers}")

    def _copy(self, values: np.ndarray) -> DeviceArray:
        array = self._array(values.shape, np.float32)
        array.write(values)
        return array

    def _array(self, shape: tuple[int, ...], dtype: type[np.generic]) -> DeviceArray:
        self._arrays.append(DeviceArray(self._kernels.driver, shape, dtype))
        return self._arrays[-1]


def _positive(steps: np.ndarray) -> np.ndarray:
    """float32 steps, 1 where there is none."""
    if not (np.isfinite(steps).all() and (steps >= 0).all()):
        raise BadInputError("the steps of the cache hold one that is negative or not finite: calibrate again")
    return np.where(steps == 0, 1, steps).astype(np.float32)
