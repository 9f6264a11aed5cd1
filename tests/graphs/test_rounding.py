"""Rounding with and without clipping: plain rounding exactly, a smaller weighted error, rows on their own."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inference_pio.errors import BadInputError
from inference_pio.graphs.rounding import (
    RATIOS,
    dequantize_blocks,
    dequantize_channels,
    round_blocks,
    round_channels,
)

LAYOUTS = [(64, 16), (64, 64), (40, 32), (33, 32), (1, 16), (129, 128), (31, 32)]


def weights(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(4, (rows, columns)) * 0.05).astype(np.float32)


def importance(columns: int) -> np.ndarray:
    return np.exp(np.random.default_rng(1).normal(0, 2, columns)).astype(np.float32)


def error(rows_NK: np.ndarray, values_NK: np.ndarray, importance_K: np.ndarray | float = 1.0) -> np.ndarray:
    """Weighted squared error of every row."""
    return ((rows_NK.astype(np.float64) - values_NK) ** 2 * importance_K).sum(axis=1)


def slowly(row: list[float], bits: int, block: int) -> tuple[list[int], list[float]]:
    """One row by the definition, number by number: levels in reading order, and a scale per block."""
    levels: list[int] = []
    scales: list[float] = []
    for start in range(0, len(row), block):
        values = row[start : start + block]
        values += [0.0] * (block - len(values))
        if bits == 8:
            scale = np.float32(max(abs(v) for v in values)) / np.float32(127)
        else:
            high, low = max(values), min(values)
            scale = np.float32(high if high > -low else low) / np.float32(-8)
        scale = scale if abs(scale) >= np.finfo(np.float32).tiny else np.float32(0)
        inverse = np.float32(1) / scale if scale else np.float32(0)
        zero, top = 2 ** (bits - 1), 2**bits - 1
        levels += [min(max(round(float(np.float32(v) * inverse)) + zero, 0), top) for v in values]
        scales.append(float(scale))
    return levels, scales


def unpack(data: np.ndarray, bits: int) -> np.ndarray:
    """Levels [N, blocks, block] of packed data."""
    if bits == 8:
        return data
    return np.stack([data & 15, data >> 4], axis=-1).reshape(*data.shape[:2], -1)


@pytest.mark.parametrize(("columns", "block"), LAYOUTS)
@pytest.mark.parametrize("bits", [8, 4])
def test_without_clipping_blocks_equal_the_definition(bits, columns, block):
    array = weights(9, columns)
    array[2], array[3], array[4, ::2], array[5] = 0, -0.0, 1e-39, np.abs(array[5])
    array[6, ::2], array[6, 1::2] = 0.7, -0.7
    for importance_K in (None, importance(columns)):
        data, scales = round_blocks(array, bits, block, False, importance_K)
        assert data.shape == (9, -(-columns // block), block * bits // 8)
        assert (data.dtype, scales.dtype) == (np.uint8, np.float32)
        for row, levels, factors in zip(array.tolist(), unpack(data, bits), scales, strict=True):
            expected, expected_scales = slowly(row, bits, block)
            assert factors.tolist() == expected_scales
            assert levels.reshape(-1).tolist() == expected


@pytest.mark.parametrize("bits", [8, 4])
def test_nothing_is_further_off_than_half_a_step(bits):
    array = weights(20, 96)
    data, scales = round_blocks(array, bits, 32, False)
    error = np.abs(dequantize_blocks(data, scales, bits, 96) - array)
    steps = np.repeat(np.abs(scales), 32, axis=1)
    clipped = unpack(data, bits).reshape(20, -1) == 15 if bits == 4 else np.zeros(array.shape, bool)
    assert (error <= steps * np.where(clipped, 1.0, 0.5) * 1.0001).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_padding_is_zero_and_changes_no_scale(bits):
    array = weights(3, 40) + 5
    data, scales = round_blocks(array, bits, 32, False)
    assert (unpack(data, bits)[:, 1, 8:] == 2 ** (bits - 1)).all()
    alone, alone_scales = round_blocks(np.ascontiguousarray(array[:, 32:]), bits, 16, False)
    assert (scales[:, 1:] == alone_scales).all()
    assert (unpack(data, bits)[:, 1:, :8] == unpack(alone, bits)[:, :, :8]).all()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("tiny", [0.0, -0.0, 1e-45, -1e-42, 1e-39, 1e-37])
def test_blocks_of_zeros_and_of_almost_zeros_are_finite(bits, tiny):
    array = np.full((2, 32), tiny, np.float32)
    array[:, ::2] = 0
    with np.errstate(all="raise", under="ignore"):
        data, scales = round_blocks(array, bits, 16, False)
    values = dequantize_blocks(data, scales, bits, 32)
    assert np.isfinite(scales).all()
    assert np.abs(values - array).max() <= max(abs(tiny), 1e-36)
    assert (values[:, ::2] == 0).all()


@pytest.mark.parametrize("value", [3.0e38, -3.0e38])
@pytest.mark.parametrize("bits", [8, 4])
def test_the_largest_floats_do_not_overflow(bits, value):
    array = np.zeros((1, 16), np.float32)
    array[0, 5] = value
    data, scales = round_blocks(array, bits, 16, False)
    assert (
        np.abs(dequantize_blocks(data, scales, bits, 16) / np.float32(3.0e38) - array / np.float32(3.0e38)).max() < 1e-5
    )


@pytest.mark.parametrize("extreme", [-2.0, 2.0])
def test_the_largest_magnitude_is_kept_with_its_sign(extreme):
    array = np.linspace(-1, 1, 16, dtype=np.float32)[None].copy()
    array[0, 3] = extreme
    for bits, level in ((4, 0), (8, 128 + 127 * int(np.sign(extreme)))):
        data, scales = round_blocks(array, bits, 16, False)
        assert unpack(data, bits)[0, 0, 3] == level
        assert dequantize_blocks(data, scales, bits, 16)[0, 3] == pytest.approx(extreme, rel=1e-6)


@given(
    array=hnp.arrays(np.float32, (3, 20), elements=st.floats(-(2.0**127), 2.0**127, width=32)),
    bits=st.sampled_from([4, 8]),
    clip=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_any_finite_weights_stay_finite(array, bits, clip):
    data, scales = round_blocks(array, bits, 16, clip)
    levels, channel_scales = round_channels(array, clip)
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(dequantize_blocks(data, scales, bits, 20)).all()
        assert np.isfinite(dequantize_channels(levels, channel_scales)).all()
    assert levels.min() >= -127


@pytest.mark.parametrize("columns", [1, 33, 256])
def test_channels_without_clipping_equal_the_definition(columns):
    array = weights(6, columns)
    array[1] = 0
    levels, scales = round_channels(array, False)
    assert (levels.dtype, levels.shape, scales.dtype, scales.shape) == (np.int8, (6, columns), np.float32, (6,))
    for row, found, scale in zip(array, levels, scales, strict=True):
        assert scale == np.abs(row).max() / np.float32(127)
        inverse = np.float32(1) / scale if scale else np.float32(0)
        assert found.tolist() == [round(float(value * inverse)) for value in row]
    values = dequantize_channels(levels, scales)
    assert np.abs(values - array).max() <= scales.max() * 0.5001


def test_dequantized_blocks_are_what_the_layout_says():
    array = weights(3, 40)
    for bits in (4, 8):
        data, scales = round_blocks(array, bits, 32, True)
        values = dequantize_blocks(data, scales, bits, 40)
        assert (values.shape, values.dtype) == ((3, 40), np.float32)
        for n, k in itertools.product(range(3), range(40)):
            block, place = divmod(k, 32)
            byte = int(data[n, block, place * bits // 8])
            level = byte if bits == 8 else (byte >> 4 if place % 2 else byte & 15)
            assert values[n, k] == np.float32(level - 2 ** (bits - 1)) * scales[n, block]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bits", [8, 4])
def test_clipping_beats_the_best_of_all_ratios_in_every_block(bits, weighted):
    """The search tries few of them where all errors weigh alike, but fits the best of those to its levels."""
    array, block = weights(20, 96), 32
    importance_K = importance(96) if weighted else None
    factor = importance_K if weighted else np.ones(96)
    data, scales = round_blocks(array, bits, block, True, importance_K)
    plain = round_blocks(array, bits, block, False)[1]
    half = 2 ** (bits - 1)
    ratios = list(RATIOS) + ([-ratio * 8 / 7 for ratio in RATIOS] if bits == 4 else [])
    for b in range(3):
        part = array[:, b * block : (b + 1) * block].astype(np.float64)
        weight = factor[b * block : (b + 1) * block]
        tried = []
        for ratio in ratios:
            scale = plain[:, b : b + 1] * ratio
            tried.append(error(part, np.clip(np.rint(part / scale), -half, half - 1) * scale, weight))
        found = error(part, dequantize_blocks(data[:, b : b + 1], scales[:, b : b + 1], bits, block), weight)
        best = np.min(tried, axis=0)
        assert (found < best * (1.001 if weighted or bits == 8 else 1.1)).all()
        assert found.sum() < best.sum()


def test_a_fitted_scale_is_that_of_least_squares():
    """Values that are whole multiples of a step but for one that is far out and does not matter."""
    levels = np.array([-8, 3, 1, -2, 5, 6, -4, 2, -1, 7, 4, -3, -6, -5, 2, 1], np.float32)
    array = (levels * np.float32(0.0371))[None].copy()
    array[0, 9] = 0.31  # its level is 7 all the same
    importance_K = np.ones(16, np.float32)
    importance_K[9] = 1e-6
    data, scales = round_blocks(array, 4, 16, True, importance_K)
    assert scales[0, 0] == pytest.approx(0.0371, rel=1e-5)
    assert (unpack(data, 4)[0, 0] - 8.0 == levels).all()


def test_four_bit_blocks_may_take_the_scale_of_the_opposite_sign():
    # -8 .. 7: the largest magnitude is positive, yet three values near -7.4 steps count for more.
    array = np.array([[7.5, -7.4, -7.4, -7.4, 1, -2, 3, -4, 5, -6, 2, 1, 4, -3, 2, -1]], np.float32)
    plain = round_blocks(array, 4, 16, False)[1]
    scales = round_blocks(array, 4, 16, True)[1]
    assert plain[0, 0] < 0 < scales[0, 0]


@pytest.mark.parametrize("weighted", [False, True])
def test_clipping_lowers_the_weighted_error_clearly_at_four_bits(weighted):
    array = weights(64, 256)
    importance_K = importance(256) if weighted else None
    factor = importance_K if weighted else 1.0
    for block in (32, 128):
        before = error(array, dequantize_blocks(*round_blocks(array, 4, block, False), 4, 256), factor)
        after = error(array, dequantize_blocks(*round_blocks(array, 4, block, True, importance_K), 4, 256), factor)
        assert after.sum() < (0.9 if weighted else 0.95) * before.sum()
        assert (after <= before * 1.0001).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_clipping_gives_up_an_outlier_of_an_unimportant_channel(sign):
    array = np.random.default_rng(3).uniform(-1, 1, (4, 128)).astype(np.float32)
    array[:, 7] = 1.9 * sign
    importance_K = np.ones(128, np.float32)
    assert round_channels(array, True, importance_K)[1] == pytest.approx(round_channels(array, False)[1], rel=1e-2)
    importance_K[7] = 0
    levels, scales = round_channels(array, True, importance_K)
    assert (scales < 0.6 * round_channels(array, False)[1]).all()
    assert (levels[:, 7] == 127 * sign).all()
    data, block_scales = round_blocks(array, 8, 128, True, importance_K)
    assert (block_scales[:, 0] < 0.6 * round_blocks(array, 8, 128, False)[1][:, 0]).all()
    assert (data[:, 0, 7] == (255 if sign > 0 else 0)).all()


def test_the_unit_of_importance_does_not_matter_and_zero_importance_is_plain():
    array, importance_K = weights(8, 64), importance(64)
    reference = round_blocks(array, 4, 32, True, importance_K)
    for unit in (2.0**-300, 2.0**300):
        data, scales = round_blocks(array, 4, 32, True, importance_K.astype(np.float64) * unit)
        assert (data == reference[0]).all() and (scales == reference[1]).all()
    data, scales = round_blocks(array, 4, 32, True, np.zeros(64, np.float32))
    assert (data == round_blocks(array, 4, 32, False)[0]).all()


@pytest.mark.parametrize("clip", [False, True])
def test_a_row_does_not_depend_on_the_rows_beside_it(clip, monkeypatch):
    array, importance_K = weights(37, 136), importance(136)
    blocks, channels = round_blocks(array, 4, 32, clip, importance_K), round_channels(array, clip, importance_K)
    for size in (1, 5, 36):
        parts = [array[i : i + size] for i in range(0, 37, size)]
        apart = [round_blocks(part, 4, 32, clip, importance_K) for part in parts]
        assert all((np.concatenate(a) == b).all() for a, b in zip(zip(*apart, strict=True), blocks, strict=True))
        apart = [round_channels(part, clip, importance_K) for part in parts]
        assert all((np.concatenate(a) == b).all() for a, b in zip(zip(*apart, strict=True), channels, strict=True))
    monkeypatch.setattr("inference_pio.graphs.rounding._PIECE", 300)
    again = round_blocks(np.asfortranarray(array), 4, 32, clip, importance_K)
    assert all((a == b).all() for a, b in zip(again, blocks, strict=True))


def test_the_input_is_left_alone():
    array, importance_K = weights(5, 64), importance(64)
    before, weight = array.copy(), importance_K.copy()
    round_blocks(array, 4, 32, True, importance_K)
    round_channels(array, True, importance_K)
    assert (array == before).all() and (importance_K == weight).all()


@pytest.mark.parametrize("bad", [np.ones(63), np.ones((64, 1)), np.full(64, np.nan), -np.ones(64), np.full(64, np.inf)])
def test_importance_that_cannot_be_is_refused(bad):
    for function in (
        lambda: round_channels(weights(2, 64), True, bad),
        lambda: round_blocks(weights(2, 64), 4, 32, True, bad),
    ):
        with pytest.raises(BadInputError, match="importance"):
            function()


@pytest.mark.parametrize(("bits", "block"), [(3, 32), (16, 32), (4, 31), (8, 0)])
def test_layouts_that_do_not_exist_are_refused(bits, block):
    with pytest.raises(BadInputError, match="use 4 or 8 bits"):
        round_blocks(weights(2, 64), bits, block, False)
