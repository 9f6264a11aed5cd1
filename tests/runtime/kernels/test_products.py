"""Integer products against float64, run thread by thread on an emulated GPU and on a real one where there is one."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
from kernel_cases import random_codes

from inference_pio.calibration.products import Input, rounded_input
from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import W8A8, W8A8_STATIC
from inference_pio.graphs.rounding import dequantize_channels, round_channels
from inference_pio.runtime.kernels import DeviceArray, Kernels, Tokens, Weight, multiply, quantize


def quantized(kernels: Kernels, freed: ExitStack, x_TK: np.ndarray, step: float | None = None) -> Tokens:
    tokens = Tokens.room(kernels.driver, *x_TK.shape, step)
    freed.callback(tokens.free)
    quantize(kernels, freed.enter_context(DeviceArray.of(kernels.driver, x_TK)), tokens)
    return tokens


def product(kernels: Kernels, freed: ExitStack, tokens: Tokens, weight: Weight) -> np.ndarray:
    freed.callback(weight.free)
    shape = (tokens.codes.shape[0], weight.codes.shape[0])
    y_TN = freed.enter_context(DeviceArray(kernels.driver, shape, np.float32))
    multiply(kernels, tokens, weight, y_TN)
    return y_TN.read()


@pytest.mark.parametrize(
    ("tokens", "rows", "columns"),
    [(1, 16, 32), (1, 5, 13000), (2, 33, 530), (3, 7, 3100), (4, 18, 48), (5, 1, 16), (8, 35, 3200), (8, 2, 1)],
)
def test_products_are_those_of_float64(kernels, freed, tokens, rows, columns):
    rng = np.random.default_rng(tokens * rows + columns)
    x_TK = rng.normal(size=(tokens, columns)).astype(np.float32)
    codes_NK, scales_N = random_codes(rng, rows, columns), rng.uniform(0.5, 2, rows).astype(np.float32)
    bias_N = rng.normal(size=rows).astype(np.float32) if rows % 2 else None
    rounded = quantized(kernels, freed, x_TK)
    y_TN = product(kernels, freed, rounded, Weight.of(kernels.driver, codes_NK, scales_N, bias_N))
    levels_TK = rounded.codes.read()[:, :columns].astype(np.int64)
    expected = levels_TK @ codes_NK.T.astype(np.int64) * (rounded.scales.read()[:, None].astype(np.float64) * scales_N)
    expected += 0 if bias_N is None else bias_N
    np.testing.assert_allclose(y_TN, expected, rtol=3e-7, atol=3e-7 * np.abs(expected).max())


def test_sums_stay_exact_at_the_largest_values(kernels, freed):
    """127 * -128 in every column leaves no room for rounding: the sum is one integer."""
    columns = (1 << 17) - 16
    tokens = quantized(kernels, freed, np.ones((1, columns), np.float32), step=1 / 127)
    weight = Weight.of(kernels.driver, np.full((1, columns), -128, np.int8), np.ones(1, np.float32))
    found = product(kernels, freed, tokens, weight)
    assert found[0, 0] == np.float32(columns * 127 * -128) * np.float32(1 / 127)


@pytest.mark.parametrize(("tokens", "columns"), [(1, 1), (3, 100), (2, 1100)])
def test_tokens_are_rounded_as_the_exported_graph_does(kernels, freed, tokens, columns):
    rng = np.random.default_rng(columns)
    x_TK = (rng.normal(size=(tokens, columns)) * rng.uniform(0.01, 50, (tokens, 1))).astype(np.float32)
    rounded = quantized(kernels, freed, x_TK)
    largest_T1 = np.abs(x_TK).max(axis=1, keepdims=True)
    expected = np.rint(x_TK / largest_T1 / np.float32(1 / 127))
    codes = rounded.codes.read()
    np.testing.assert_array_equal(codes[:, :columns], expected)
    assert not codes[:, columns:].any()
    np.testing.assert_allclose(rounded.scales.read(), largest_T1[:, 0] / 127, rtol=2e-7)


def test_codes_near_a_tie_are_the_graph_s_too(kernels, freed):
    """One multiplication by 127 / largest would give other codes than the graph's two divisions, now and then."""
    largest = np.float32(2.9371)
    ties = (np.arange(-127, 127) + 0.5) * (largest / 127)
    near = np.concatenate([ties.astype(np.float32) * np.float32(1 + step * 2**-24) for step in range(-4, 5)])
    x_TK = np.append(near, largest)[None].astype(np.float32)
    expected = np.rint(x_TK / largest / np.float32(1 / 127))
    assert (np.rint(x_TK * (np.float32(127) / largest)) != expected).any()
    np.testing.assert_array_equal(quantized(kernels, freed, x_TK).codes.read()[:, : x_TK.size], expected)


@pytest.mark.parametrize(("chosen", "step"), [(W8A8, None), (W8A8_STATIC, 0.03)])
def test_products_are_those_that_verification_simulates(kernels, freed, chosen, step):
    rng = np.random.default_rng(13)
    x_TK, w_NK = (rng.normal(size=(count, 200)).astype(np.float32) for count in (4, 24))
    codes_NK, scales_N = round_channels(w_NK, clip=False)
    found = product(
        kernels, freed, quantized(kernels, freed, x_TK, step), Weight.of(kernels.driver, codes_NK, scales_N)
    )
    rounded_TK = rounded_input(x_TK, Input(np.ones(200, np.float32), step=step), chosen)
    expected = rounded_TK.astype(np.float64) @ dequantize_channels(codes_NK, scales_N).T
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_halves_go_to_the_even_code(kernels, freed):
    x_TK = np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, 0]], np.float32)
    for step in (None, 1.0):
        codes = quantized(kernels, freed, x_TK, step).codes.read()[0, :8]
        assert list(codes) == [127, 0, 2, 2, 0, -2, -126, 0]


def test_a_fixed_step_clips(kernels, freed):
    tokens = quantized(kernels, freed, np.array([[10, -10, 0.3, 1.27]], np.float32), step=0.01)
    assert list(tokens.codes.read()[0, :4]) == [127, -128, 30, 127]


def test_zeros_stay_zero_and_bad_values_show(kernels, freed):
    x_TK = np.ones((4, 20), np.float32)
    x_TK[0], x_TK[1, 3], x_TK[2, 19] = 0, np.nan, -np.inf
    weight = Weight.of(kernels.driver, np.ones((3, 20), np.int8), np.ones(3, np.float32))
    found = product(kernels, freed, quantized(kernels, freed, x_TK), weight)
    np.testing.assert_array_equal(found[0], 0)
    assert np.isnan(found[1:3]).all()
    np.testing.assert_allclose(found[3], 20, rtol=1e-6)


def test_shapes_that_do_not_fit_are_refused(kernels, freed):
    driver = kernels.driver
    tokens = quantized(kernels, freed, np.ones((9, 32), np.float32))
    fits, other = (np.ones((4, columns), np.int8) for columns in (32, 16))
    with pytest.raises(BadInputError, match=r"1 to 8 tokens, not 9"):
        product(kernels, freed, tokens, Weight.of(driver, fits, np.ones(4, np.float32)))
    with pytest.raises(BadInputError, match=r"tokens of 32 values .* 16 columns"):
        product(kernels, freed, tokens, Weight.of(driver, other, np.ones(4, np.float32)))
    with pytest.raises(BadInputError, match=r"activations must be float32 \[9, 32\], not int8 \[9, 32\]"):
        quantize(kernels, tokens.codes, tokens)
    with pytest.raises(BadInputError, match="4 rows needs int8 codes and 4 scales"):
        Weight.of(driver, fits, np.ones(3, np.float32))
    for step in (0.0, -1.0, float("nan")):
        with pytest.raises(BadInputError, match="must be positive"):
            Tokens.room(driver, 1, 16, step)
