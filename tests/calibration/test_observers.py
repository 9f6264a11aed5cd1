"""Observers: bit-identical for any chunks, right on distributions whose best clip is known, and loud on bad numbers."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inference_pio.calibration.observers import Observer, ObserverKind, _integral
from inference_pio.errors import BadInputError

KINDS = list(ObserverKind)


def observed(x_TK: np.ndarray) -> Observer:
    observer = Observer("layer 3", x_TK.shape[1])
    observer.update(x_TK)
    return observer


def clip_of(values: np.ndarray, kind: ObserverKind) -> float:
    return observed(values.astype(np.float32).reshape(-1, 1)).scale(kind) * 127


def squared_error(values: np.ndarray, scale: float) -> float:
    return float(((np.clip(np.rint(values / scale), -127, 127) * scale - values) ** 2).sum())


@given(
    x_TK=hnp.arrays(np.float32, (12, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    cuts=st.lists(st.integers(0, 12), max_size=4),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_chunks_and_their_order_change_nothing(x_TK, cuts, seed):
    order = np.random.default_rng(seed)
    whole, parts = observed(x_TK), Observer("layer 3", 3)
    chunks = np.split(x_TK[order.permutation(12)], sorted(cuts))
    for chunk in order.permutation(len(chunks)):
        parts.update(chunks[chunk])
    assert [parts.scale(kind) for kind in KINDS] == [whole.scale(kind) for kind in KINDS]
    assert parts.channel_max().tobytes() == whole.channel_max().tobytes()
    assert (parts._counts == whole._counts).all()


@given(x_TK=hnp.arrays(np.float32, (8, 2), elements=st.floats(-(2.0**127), 2.0**127, width=32)))
@settings(max_examples=100, deadline=None)
def test_a_scale_is_finite_and_no_clip_exceeds_the_maximum(x_TK):
    largest = float(np.abs(x_TK).max())
    for kind in KINDS:
        scale = observed(x_TK).scale(kind)
        assert scale == 0 or 2**-126 <= scale <= largest / 127 * 1.0001
        assert scale == float(np.float32(scale))
        assert (scale > 0) or largest / 127 < 2**-126 * 2**12


def test_many_pieces_of_one_chunk_count_every_element(monkeypatch):
    x_TK = np.random.default_rng(0).normal(0, 1, (1001, 7)).astype(np.float32)
    whole = observed(x_TK)
    monkeypatch.setattr("inference_pio.calibration.observers._PIECE", 50)
    pieces = observed(x_TK[:, ::-1][:, ::-1])
    assert whole.elements == pieces.elements == 7007
    assert (whole._counts == pieces._counts).all()
    assert (pieces.channel_max() == np.abs(x_TK).max(axis=0)).all()


def test_min_max_and_channel_maxima_are_exact():
    x_TK = np.array([[1.0, -7.3, 0.0], [-2.5, 3.0, -0.0]], np.float32)
    observer = observed(x_TK)
    assert observer.scale(ObserverKind.MIN_MAX) == float(np.float32(7.3) / np.float32(127))
    assert observer.channel_max().tolist() == [2.5, np.float32(7.3), 0.0]


@pytest.mark.parametrize("percentile", [50.0, 99.0, 99.9, 100.0])
def test_a_percentile_is_that_of_the_sorted_values_up_to_one_bin(percentile, monkeypatch):
    monkeypatch.setattr("inference_pio.calibration.observers.PERCENTILE", percentile)
    values = np.random.default_rng(1).standard_t(3, 50_000).astype(np.float32)
    magnitudes = np.sort(np.abs(values))
    exact = magnitudes[int(np.ceil(percentile / 100 * len(values))) - 1]
    found = clip_of(values, ObserverKind.PERCENTILE)
    assert exact * 0.9999 <= found <= exact * 1.008
    if percentile == 100:
        assert found == pytest.approx(magnitudes[-1], rel=1e-6)


def test_the_percentile_leaves_out_one_in_ten_thousand():
    values = np.ones(100_000)
    values[:10] = 50
    assert clip_of(values, ObserverKind.PERCENTILE) == pytest.approx(1, rel=0.01)
    values[10] = 50
    assert clip_of(values, ObserverKind.PERCENTILE) == pytest.approx(50, rel=0.01)


def test_a_percentile_of_zero_gives_way_to_the_maximum():
    values = np.zeros(100_000)
    values[3] = 5
    assert clip_of(values, ObserverKind.PERCENTILE) == pytest.approx(5, rel=1e-6)


@pytest.mark.parametrize("spread", ["normal", "laplace", "uniform", "outliers"])
def test_the_mse_clip_has_the_least_squared_error_of_a_fine_search(spread):
    rng = np.random.default_rng(2)
    values = {
        "normal": lambda: rng.normal(0, 0.3, 60_000),
        "laplace": lambda: rng.laplace(0, 3e-4, 60_000),
        "uniform": lambda: rng.uniform(-9, 9, 60_000),
        "outliers": lambda: np.concatenate([rng.normal(0, 1, 60_000), [400.0, -300.0]]),
    }[spread]()
    values = values.astype(np.float32).astype(np.float64)
    largest = np.abs(values).max()
    least = min(squared_error(values, largest * ratio / 127) for ratio in np.geomspace(1, 2**-9, 300))
    found = clip_of(values, ObserverKind.MSE)
    assert squared_error(values, found / 127) <= 1.02 * least
    if spread == "uniform":
        assert found == pytest.approx(largest, rel=1e-6)
    if spread == "outliers":
        assert squared_error(values, found / 127) < squared_error(values, largest / 127)


def divergences(values: np.ndarray) -> dict[float, float]:
    """Clip -> KL divergence by TensorRT's published procedure over a plain linear histogram, bin by bin."""
    histogram, edges = np.histogram(np.abs(values[values != 0]), bins=2048, range=(0, np.abs(values).max()))
    histogram = histogram.astype(float)
    histogram[0] = histogram[1]
    found = {}
    for kept in range(2048, 127, -4):
        reference, quantized = histogram[:kept].copy(), np.zeros(kept)
        reference[-1] += histogram[kept:].sum()
        for level in range(128):
            members = [b for b in range(level * kept // 128 - 1, (level + 1) * kept // 128 + 2) if 0 <= b < kept]
            members = [b for b in members if b * 128 // kept == level and histogram[b] > 0]
            for b in members:
                quantized[b] = histogram[members].sum() / len(members)
        if (reference[quantized == 0] > 0).any():
            continue
        p, q = reference / reference.sum(), quantized / quantized.sum()
        found[float(edges[kept])] = float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())
    return found


@pytest.mark.parametrize("seed", [3, 4])
def test_the_entropy_clip_is_that_of_the_published_procedure(seed):
    rng = np.random.default_rng(seed)
    values = rng.laplace(0, 1, 400_000) if seed == 3 else rng.normal(0, 2, 400_000)
    values = np.concatenate([values, np.abs(values).max() * np.array([1.5, 1.9, 2.2])])
    published = divergences(values)
    best = min(published, key=published.__getitem__)
    found = clip_of(values, ObserverKind.ENTROPY)
    # The curve is flat around its minimum, where sampling noise decides.
    assert published[min(published, key=lambda clip: abs(clip - found))] <= 1.15 * published[best]
    assert best < 0.8 * np.abs(values).max()
    assert found == pytest.approx(best, rel=0.2)


def test_many_values_next_to_zero_leave_the_entropy_clip_as_it_is():
    values = np.random.default_rng(8).laplace(0, 1, 50_000)
    expected = clip_of(values, ObserverKind.ENTROPY)
    assert expected < 0.99 * np.abs(values).max()
    for small in (0.0, 1e-6):
        more = np.concatenate([values, np.full(200_000, small)])
        assert clip_of(more, ObserverKind.ENTROPY) == pytest.approx(expected, rel=1e-6)


def test_one_outlier_in_a_million_million_is_clipped_by_mse():
    observer = observed(np.array([[1.0], [0.9], [0.5], [1000.0]], np.float32))
    observer._counts[observer._counts.nonzero()[0][:-1]] *= 10**12
    assert observer.scale(ObserverKind.MSE) * 127 == pytest.approx(1, rel=0.2)


def test_the_expected_error_is_the_integral_of_the_squared_distance_to_a_level():
    grid = np.linspace(0, 140, 1_400_001)
    distance = (grid - np.minimum(np.rint(grid), 127)) ** 2
    summed = np.concatenate([[0], np.cumsum((distance[1:] + distance[:-1]) / 2)]) * 1e-4
    assert np.abs(_integral(grid) - summed).max() < 1e-6 * summed[-1]


@pytest.mark.parametrize("kind", [ObserverKind.ENTROPY, ObserverKind.MSE, ObserverKind.PERCENTILE])
def test_a_single_magnitude_is_its_own_clip(kind):
    for magnitude in (1.0, 1.003, 700.0, 1e-20):
        assert clip_of(np.full(5000, -magnitude), kind) == pytest.approx(magnitude, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_have_scale_zero_and_nothing_seen_is_an_error(kind):
    assert observed(np.zeros((5, 4), np.float32)).scale(kind) == 0
    assert observed(np.full((5, 4), 1e-44, np.float32)).scale(kind) == 0
    empty = Observer("layer 3", 4)
    empty.update(np.zeros((0, 4), np.float32))
    with pytest.raises(BadInputError, match="layer 3 saw no calibration tokens"):
        empty.scale(kind)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_and_leave_the_observer_as_it_was(bad):
    x_TK = np.random.default_rng(5).normal(0, 1, (6, 4)).astype(np.float32)
    observer = observed(x_TK)
    counts, maxima = observer._counts.copy(), observer.channel_max()
    x_TK[4, 2] = bad
    with pytest.raises(BadInputError, match="channel 2 of the activations of layer 3"):
        observer.update(x_TK)
    assert (observer._counts == counts).all() and (observer.channel_max() == maxima).all()


@pytest.mark.parametrize("x", [np.zeros((2, 5), np.float32), np.zeros(4, np.float32), np.zeros((2, 4))])
def test_activations_of_another_shape_or_type_are_refused(x):
    with pytest.raises(BadInputError, match=r"layer 3 are .*: give float32 \[tokens, 4\]"):
        Observer("layer 3", 4).update(x)


def test_memory_does_not_grow_with_the_tokens():
    observer = Observer("layer 3", 64)
    x_TK = np.ones((40_000, 64), np.float32)
    observer.update(x_TK[:8])
    tracemalloc.start()
    try:
        observer.update(x_TK)
        peak = tracemalloc.get_traced_memory()[1]
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert peak < 6 << 20
    assert kept < 1 << 19
