"""What is kept of activations: sums that forget the order, whole rows of every sample, channels that are massive."""

import numpy as np
import onnx_ir as ir
import pytest

from inference_pio.calibration.cache_statistics import CacheStatistics
from inference_pio.calibration.statistics import KEPT_ROWS, TapStatistics
from inference_pio.calibration.taps import CacheTaps, Tap
from inference_pio.errors import BadInputError

COLUMNS = 64


def tap(columns: int = COLUMNS) -> Tap:
    return Tap(ir.Value(name="x"), ("model.layers.0.mlp.down_proj.weight",), columns, None)


def collect(samples: list[np.ndarray], gram: bool = True) -> TapStatistics:
    statistics = TapStatistics(tap(samples[0].shape[1]), len(samples), gram)
    for sample in samples:
        statistics.update(sample)
    return statistics


def data(tokens: int = 40, seed: int = 0, columns: int = COLUMNS) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(tokens, columns)).astype(np.float32)


def test_order_and_chunks_of_the_samples_do_not_change_the_sums():
    samples = [data(seed=seed) * 10**seed for seed in range(4)]
    straight, reverse = collect(samples), collect(samples[::-1])
    in_chunks = collect([piece for sample in samples for piece in np.array_split(sample, 7)])
    everything = np.concatenate(samples).astype(np.float64)
    ones = np.ones(COLUMNS, np.float32)
    gram = straight.take_gram(ones)
    for other in (reverse, in_chunks):
        assert other.channel_max().tobytes() == straight.channel_max().tobytes()
        assert other.massive_channels() == straight.massive_channels()
        assert np.allclose(other.importance(), straight.importance(), rtol=1e-6)
        assert np.allclose(other.take_gram(ones), gram, rtol=1e-4, atol=1e-2)
    assert np.array_equal(straight.channel_max(), np.abs(everything).max(axis=0))
    assert np.allclose(straight.importance(), np.square(everything).mean(axis=0), rtol=1e-5)


def test_the_gram_matrix_is_of_the_smoothed_activations():
    x, factors = data(), np.exp(data(1, 3)[0])
    expected = (x / factors).astype(np.float64).T @ (x / factors)
    found = collect([x]).take_gram(factors)
    assert found.dtype == np.float64 and np.allclose(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("samples", [1, 3, KEPT_ROWS // 2, KEPT_ROWS, 3 * KEPT_ROWS])
def test_the_first_and_the_last_token_of_every_sample_are_kept(samples: int):
    tokens = 5 if samples > 100 else 1200
    pieces = [np.arange(i * tokens, (i + 1) * tokens, dtype=np.float32)[:, None] for i in range(samples)]
    kept = collect(pieces, gram=False).rows()[:, 0].tolist()
    assert {float(piece[0, 0]) for piece in pieces} | {float(piece[-1, 0]) for piece in pieces} <= set(kept)
    assert kept == sorted(set(kept)) and len(kept) <= max(KEPT_ROWS + samples, 2 * samples)


def test_a_sample_of_one_token_is_kept_once():
    assert np.array_equal(collect([data(1), data(1, 1)]).rows(), np.concatenate([data(1), data(1, 1)]))


def test_kept_rows_do_not_change_with_the_caller_s_buffer():
    x = data()
    statistics = collect([x], gram=False)
    before = statistics.rows().copy()
    x[:] = 0
    assert np.array_equal(statistics.rows(), before)


def test_a_channel_that_is_huge_on_few_tokens_is_massive():
    x = data(100)
    x[0, 7], x[3, 40] = 900, -500
    assert collect([x]).massive_channels() == (7, 40)


def test_a_channel_that_is_always_large_is_not_massive():
    x = data(100)
    x[:, 7] *= 300
    assert collect([x]).massive_channels() == ()


def test_tokens_that_are_large_as_a_whole_are_not_massive():
    x = data(100)
    x[0] *= 300
    assert collect([x]).massive_channels() == ()


def test_ordinary_and_zero_activations_have_no_massive_channels():
    assert collect([data(100)]).massive_channels() == ()
    assert collect([np.zeros((9, COLUMNS), np.float32)]).massive_channels() == ()


def test_one_massive_channel_is_found_in_a_narrow_input():
    x = data(100, columns=8)
    x[50, 2] = 1000
    assert collect([x]).massive_channels() == (2,)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_refused_by_name(value: float):
    x = data()
    x[3, 5] = value
    with pytest.raises(BadInputError, match=r"channel 5 .*layers\.0\.mlp\.down_proj.* NaN or infinite"):
        collect([x])


def test_cache_steps_hold_the_largest_of_all_samples():
    taps = CacheTaps(ir.Value(name="k"), ir.Value(name="v"), 2)
    samples = [(data(9, seed, 16), data(9, seed + 5, 16)) for seed in range(3)]
    found = []
    for order in (samples, samples[::-1]):
        statistics = CacheStatistics(taps, 1.5)
        for key, value in order:
            statistics.update(key, value)
        found.append(statistics.arrays(4))
    keys, values = (np.concatenate(part).reshape(-1, 2, 8) for part in zip(*samples, strict=True))
    longest = np.hypot(keys[..., :4], keys[..., 4:]).max(axis=0) * 1.5 / 127
    assert np.allclose(found[0]["cache.4.key"], np.concatenate([longest, longest], axis=1), rtol=1e-6)
    assert np.allclose(found[0]["cache.4.value"], np.abs(values).max(axis=0) / 127, rtol=1e-6)
    assert all(found[0][name].tobytes() == found[1][name].tobytes() for name in found[0])
