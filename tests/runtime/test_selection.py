"""Exact selection without sorting, against the plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_pio.runtime import selection
from inference_pio.runtime.selection import Softmax

SIZES = [1, 2, 3, 127, 128, 129, 255, 256, 257, 1000, 5003, 70_001, 151_936]


def logits(size: int, seed: int, kind: str) -> np.ndarray:
    """Normal values; "ties" of a few distinct ones; "masked" with most of them -inf; "flat" all equal."""
    values = np.random.default_rng(seed).normal(size=size) * 4
    if kind == "ties":
        values = np.round(values)
    elif kind == "masked":
        values[np.random.default_rng(seed + 1).random(size) < 0.9] = -np.inf
        values[size // 2] = 1.0
    elif kind == "flat":
        values[:] = -3.25
    elif kind == "sorted":
        values.sort()
    return values.astype(np.float32)


def naive_top_k(values: np.ndarray, k: int) -> np.ndarray:
    kth = np.sort(values)[::-1][min(k, len(values)) - 1]
    return np.flatnonzero((values >= kth) & np.isfinite(values))


def naive_nucleus(values: np.ndarray, temperature: float, mass: float) -> np.ndarray:
    """Keep, in descending order, every value before which less than `mass` is gathered."""
    order = np.lexsort((np.arange(len(values)), -values.astype(np.float64)))
    weights = np.exp((values[order].astype(np.float64) - values.max()) / temperature)
    before = np.concatenate([[0.0], np.cumsum(weights)[:-1]])
    return np.sort(order[before < mass * weights.sum()])


@pytest.mark.parametrize("kind", ["normal", "ties", "masked", "flat", "sorted"])
@pytest.mark.parametrize("size", SIZES)
def test_top_k(size, kind):
    values = logits(size, size, kind)
    for k in {1, 2, 50, 256, size // 2 or 1, size, size + 5}:
        assert np.array_equal(selection.top_k(values, k), naive_top_k(values, k))


@settings(max_examples=300, deadline=None)
@given(
    values=st.lists(st.sampled_from([-np.inf, -3.0, -0.0, 0.0, 1.0, 1.5, 3e38, -3e38]), min_size=1, max_size=700),
    k=st.integers(1, 800),
)
def test_top_k_of_any_values(values, k):
    array = np.array(values, np.float32)
    if np.isfinite(array).any():
        assert np.array_equal(selection.top_k(array, k), naive_top_k(array, k))


@pytest.mark.parametrize("kind", ["normal", "ties", "masked", "flat"])
@pytest.mark.parametrize("size", [1, 3, 256, 257, 5003, 151_936])
def test_best(size, kind):
    values = logits(size, 7, kind)
    finite = np.flatnonzero(np.isfinite(values))
    expected = finite[np.argsort(-values[finite], kind="stable")]
    for count in (1, 5, 20):
        assert np.array_equal(selection.best(values, count), expected[:count])


@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 30.0, 1e6])
@pytest.mark.parametrize("kind", ["normal", "ties", "masked"])
@pytest.mark.parametrize("size", [1, 2, 200, 257, 5003, 151_936])
def test_nucleus(size, kind, temperature):
    """The size may differ by a value or two where float32 sums put the edge elsewhere; the values are the largest."""
    values = logits(size, 3, kind)
    softmax = Softmax(float(values.max()), temperature)
    for mass in (1e-9, 0.1, 0.5, 0.9, 0.999):
        found, expected = selection.nucleus(values, softmax, mass), naive_nucleus(values, temperature, mass)
        slack = 0 if size <= 256 else 1 + len(expected) // 10_000
        assert abs(len(found) - len(expected)) <= slack
        if len(found) == len(expected):
            assert np.array_equal(found, expected)
        assert np.array_equal(np.sort(values[found]), np.sort(values)[size - len(found) :])


@pytest.mark.parametrize("size", [10, 300, 5000])
def test_nucleus_of_equals(size):
    """Of equal values the lower positions stay."""
    values = np.full(size, 2.5, np.float32)
    found = selection.nucleus(values, Softmax(2.5, 1.0), 0.31)
    assert np.array_equal(found, np.arange(int(np.ceil(size * 0.31))))


@pytest.mark.parametrize("size", [5, 300, 3000])
def test_nucleus_of_everything(size):
    values = logits(size, 1, "normal")
    assert len(selection.nucleus(values, Softmax(float(values.max()), 1.0), 1.0)) >= size * 0.999


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 2, 511, 512, 513, 1024, 2000, 151_936])
def test_draw_inverts_the_running_sum(size, dtype):
    weights = np.random.default_rng(size).random(size).astype(dtype)
    weights[:: 3 if size > 3 else size + 1] = 0
    weights[-1] = 0 if size > 3 else 1
    running = np.cumsum(weights.astype(np.float64)) / weights.sum(dtype=np.float64)
    for uniform in [0.0, 1e-9, 0.25, 0.5, 0.75, 1 - 2**-53, *np.random.default_rng(1).random(200)]:
        place = selection.draw(weights, uniform)
        assert weights[place] > 0
        before = running[place - 1] if place else 0.0
        assert before - 1e-6 <= uniform <= running[place] + 1e-6


def test_softmax_of_extreme_logits():
    values = np.array([3e38, -3e38, -np.inf, 3e38], np.float32)
    softmax = Softmax(float(values.max()), 1e-20)
    assert softmax.weights(values).tolist() == softmax.many_weights(values).tolist() == [1, 0, 0, 1]
    hot = Softmax(5.0, 1e30).many_weights(np.array([5, -5, -np.inf], np.float32))
    assert hot.tolist() == [1, 1, 0]
