"""Attention over an int8 cache against float64, on an emulated GPU and on a real one where there is one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from kernel_cases import attention, random_codes, rounded_queries

from inference_pio.errors import BadInputError
from inference_pio.graphs.kv_scales import round_trip
from inference_pio.runtime.kernels import DeviceArray, Int8Cache, Kernels, Lengths

TOLERANCE = 1e-5
"""Of the largest value: float32 weights of scores up to 30."""


def steps(rng: np.random.Generator, kv_heads: int, head_dim: int) -> np.ndarray:
    return rng.uniform(0.005, 0.05, (kv_heads, head_dim)).astype(np.float32)


def filled(
    kernels: Kernels, freed: ExitStack, rows: int, capacity: int, heads: int, kv_heads: int, head_dim: int, seed: int
) -> tuple[Int8Cache, np.ndarray, np.ndarray]:
    """A cache of random codes, and the keys and values that they stand for, float64 [B, K, T, D]."""
    rng = np.random.default_rng(seed)
    scales = steps(rng, kv_heads, head_dim), steps(rng, kv_heads, head_dim)
    cache = Int8Cache(kernels, rows, capacity, heads, *scales)
    freed.callback(cache.free)
    floats = []
    for array, scale in zip((cache.keys, cache.values), scales, strict=True):
        codes = random_codes(rng, *array.shape)
        array.write(codes)
        floats.append(codes.astype(np.float64) * scale[None, :, None])
    return cache, floats[0], floats[1]


def counted(kernels: Kernels, freed: ExitStack, numbers: list[int]) -> Lengths:
    lengths = Lengths(kernels.driver, len(numbers))
    freed.callback(lengths.free)
    lengths.set(numbers)
    return lengths


def attended(
    kernels: Kernels, freed: ExitStack, cache: Int8Cache, q: np.ndarray, lengths: list[int], scale: float
) -> np.ndarray:
    y = freed.enter_context(DeviceArray(kernels.driver, q.shape, np.float32))
    cache.attend(freed.enter_context(DeviceArray.of(kernels.driver, q)), counted(kernels, freed, lengths), y, scale)
    return y.read()


@pytest.mark.parametrize(
    ("head_dim", "heads", "kv_heads", "lengths"),
    [
        (128, 4, 1, [1]),
        (128, 2, 2, [33]),
        (128, 2, 1, [129, 256]),
        (128, 8, 1, [300]),
        (128, 3, 1, [40]),
        (64, 2, 2, [127]),
        (64, 4, 2, [70, 1]),
        (64, 4, 1, [513]),
        (64, 12, 1, [65]),
    ],
)
def test_attention_is_that_of_float64(kernels, freed, head_dim, heads, kv_heads, lengths):
    cache, keys, values = filled(kernels, freed, len(lengths), max(lengths) + 3, heads, kv_heads, head_dim, heads)
    q = np.random.default_rng(7).normal(size=(len(lengths), heads, head_dim)).astype(np.float32)
    found = attended(kernels, freed, cache, q, lengths, 0.2)
    rounded = rounded_queries(q, cache.key_steps, 0.2)
    expected = attention(rounded, keys, values, lengths, 0.2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(values).max())


def test_a_warp_goes_on_from_tile_to_tile(kernels, freed, monkeypatch):
    """On a GPU of one multiprocessor a part is long: every warp meets larger scores after smaller ones."""
    monkeypatch.setattr(kernels.driver, "limits", replace(kernels.driver.limits, multiprocessors=1))
    cache, keys, values = filled(kernels, freed, 1, 1100, 8, 4, 64, seed=14)
    q = np.random.default_rng(15).normal(size=(1, 8, 64)).astype(np.float32)
    found = attended(kernels, freed, cache, q, [1090], 0.1)
    expected = attention(rounded_queries(q, cache.key_steps, 0.1), keys, values, [1090], 0.1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(values).max())


def test_rounding_the_query_costs_little_beside_rounding_the_cache(kernels, freed):
    """Keys are off by up to half a step each; the query's 16 bits add less than a fiftieth of what that does."""
    cache, keys, values = filled(kernels, freed, 1, 200, 4, 1, 128, seed=11)
    rng = np.random.default_rng(12)
    q = rng.normal(size=(1, 4, 128)).astype(np.float32)
    exact = attention(q, keys, values, [200], 0.1)
    before = keys + rng.uniform(-0.5, 0.5, keys.shape) * cache.key_steps[None, :, None]
    of_cache = np.abs(attention(q, before, values, [200], 0.1) - exact)
    of_query = np.abs(attended(kernels, freed, cache, q, [200], 0.1) - exact)
    assert of_query.mean() < of_cache.mean() / 50


def test_a_row_does_not_depend_on_its_batch(kernels, freed):
    lengths = [290, 5]
    both, keys, _ = filled(kernels, freed, 2, 300, 2, 1, 64, seed=3)
    q = np.random.default_rng(4).normal(size=(2, 2, 64)).astype(np.float32)
    together = attended(kernels, freed, both, q, lengths, 0.1)
    for row in range(2):
        alone, _, _ = filled(kernels, freed, 1, 300, 2, 1, 64, seed=3)
        for array, source in ((alone.keys, both.keys), (alone.values, both.values)):
            array.write(source.read()[row : row + 1])
        np.testing.assert_array_equal(
            attended(kernels, freed, alone, q[row : row + 1], lengths[row : row + 1], 0.1)[0], together[row]
        )
    assert keys.shape == (2, 1, 300, 64)


def test_large_scores_do_not_overflow_and_tiny_ones_do_not_vanish(kernels, freed):
    cache, keys, values = filled(kernels, freed, 1, 64, 1, 1, 64, seed=5)
    q = np.random.default_rng(6).normal(size=(1, 1, 64)).astype(np.float32)
    for factor in (1e-6, 1e4):
        found = attended(kernels, freed, cache, q * np.float32(factor), [64], 1.0)
        np.testing.assert_allclose(found, attention(q * factor, keys, values, [64], 1.0), rtol=0, atol=1e-3)


def test_bad_queries_show(kernels, freed):
    cache, _, _ = filled(kernels, freed, 1, 40, 4, 2, 64, seed=8)
    q = np.ones((1, 4, 64), np.float32)
    q[0, 1, 5], q[0, 2, 63] = np.nan, np.inf
    found = attended(kernels, freed, cache, q, [35], 0.1)
    assert np.isnan(found[0, 1:3]).all() and np.isfinite(found[0, [0, 3]]).all()


def test_a_zero_query_gives_the_mean(kernels, freed):
    cache, _, values = filled(kernels, freed, 1, 90, 1, 1, 64, seed=9)
    found = attended(kernels, freed, cache, np.zeros((1, 1, 64), np.float32), [90], 1.0)
    np.testing.assert_allclose(found[0], values[0].mean(axis=1), rtol=1e-5, atol=1e-6)


def test_new_tokens_are_rounded_into_the_cache(kernels, freed):
    rng = np.random.default_rng(10)
    key_steps, value_steps = steps(rng, 2, 64), steps(rng, 2, 64)
    value_steps[1, 7] = 0  # counts as 1
    cache = Int8Cache(kernels, 2, 5, 4, key_steps, value_steps)
    freed.callback(cache.free)
    before = [random_codes(rng, *cache.keys.shape) for _ in range(2)]
    new = [rng.normal(size=(2, 2, 64)).astype(np.float32) * 3 for _ in range(2)]
    for array, codes in zip((cache.keys, cache.values), before, strict=True):
        array.write(codes)
    cache.store(
        *(freed.enter_context(DeviceArray.of(kernels.driver, part)) for part in new), counted(kernels, freed, [5, 2])
    )
    for array, codes, part, scales in zip(
        (cache.keys, cache.values), before, new, (key_steps, value_steps), strict=True
    ):
        found = array.read()
        places = np.zeros(codes.shape, bool)
        places[0, :, 4] = places[1, :, 1] = True
        np.testing.assert_array_equal(found[~places], codes[~places])
        read = np.stack([found[0, :, 4], found[1, :, 1]]) * np.where(scales == 0, np.float32(1), scales)
        np.testing.assert_array_equal(read, round_trip(part, scales))


def test_what_does_not_fit_is_refused(kernels, freed):
    ones = np.ones((2, 64), np.float32)
    with pytest.raises(BadInputError, match="3 heads cannot share 2 key heads"):
        Int8Cache(kernels, 1, 8, 3, ones, ones)
    with pytest.raises(BadInputError, match=r"head sizes .* not 80"):
        Int8Cache(kernels, 1, 8, 2, np.ones((1, 80)), np.ones((1, 80)))
    with pytest.raises(BadInputError, match="negative or not finite"):
        Int8Cache(kernels, 1, 8, 2, ones, -ones)
    with pytest.raises(BadInputError, match="must both be"):
        Int8Cache(kernels, 1, 8, 2, ones, ones[:1])
    cache, _, _ = filled(kernels, freed, 2, 8, 2, 1, 64, seed=1)
    q = np.ones((2, 2, 64), np.float32)
    for lengths in ([1], [1, 9]):
        with pytest.raises(BadInputError, match="lengths must be 2 from 1 to 8"):
            attended(kernels, freed, cache, q, lengths, 1.0)
    with pytest.raises(BadInputError, match="lengths must be 2 numbers of at least 1"):
        counted(kernels, freed, [0, 1])
    with pytest.raises(BadInputError, match=r"queries must be float32 \[2, 2, 64\]"):
        attended(kernels, freed, cache, q[:1], [1, 1], 1.0)
    new = freed.enter_context(DeviceArray.of(kernels.driver, np.ones((2, 1, 64), np.float32)))
    with pytest.raises(BadInputError, match="lengths must be 2 from 1 to 8"):
        cache.store(new, new, counted(kernels, freed, [1, 9]))
