"""Rounded inputs and weights in numpy: the same arithmetic as the reference that verification uses."""

import numpy as np
import pytest
import torch

from inference_pio.calibration.products import Input, dequantized, relative_error, round_weight, rounded_input
from inference_pio.graphs.formats import FP32, W8A8, W8A8_STATIC, WeightFormat
from inference_pio.verify.reference import round_activations
from inference_pio.verify.weights import InputRounding


def rows(columns: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_t(3, (17, columns)).astype(np.float32)
    x[4], x[5, ::2], x[6] = 0, 0, x[6] * 1e-20
    return x


@pytest.mark.parametrize("columns", [16, 40, 96, 129])
@pytest.mark.parametrize(
    ("chosen", "step"), [(WeightFormat(8), None), (WeightFormat(4, 16), None), (W8A8, None), (W8A8_STATIC, 0.03)]
)
@pytest.mark.parametrize("exact", [(), (3,), (0, 15)])
def test_inputs_are_rounded_as_the_reference_rounds_them(columns, chosen, step, exact):
    x, ones = rows(columns), np.ones(columns, np.float32)
    block = None if chosen.integer_product else chosen.block(columns)
    reference = InputRounding(block, step, exact if chosen.integer_product else ())
    found = rounded_input(x, Input(ones, exact, step), chosen)
    assert found.dtype == np.float32 and found.shape == x.shape
    assert np.array_equal(found, round_activations(torch.from_numpy(x), reference).numpy())
    assert not np.array_equal(found, x)


def test_factors_divide_before_the_rounding():
    x, factors = rows(40), np.exp(rows(40, 1)[0])
    found = rounded_input(x, Input(factors, (1,)), W8A8)
    assert np.array_equal(found, rounded_input(x / factors, Input(np.ones(40, np.float32), (1,)), W8A8))
    assert np.array_equal(found[:, 1], (x / factors)[:, 1])
    assert np.array_equal(rounded_input(x, Input(factors), FP32), x / factors)


def test_an_exact_column_takes_no_levels_from_the_others():
    x = rows(40)
    x[:, 2] = 1e4
    ones = np.ones(40, np.float32)
    others = np.arange(40) != 2
    plain = rounded_input(x, Input(ones), W8A8)[:, others]
    kept = rounded_input(x, Input(ones, (2,)), W8A8)[:, others]
    assert relative_error(x[:, others], kept) < relative_error(x[:, others], plain) / 100


def test_a_static_step_clips():
    x = np.array([[-1000.0, 1000.0, 0.26]], np.float32)
    found = rounded_input(x, Input(np.ones(3, np.float32), (), 0.5), W8A8_STATIC)
    assert found.tolist() == [[-64.0, 63.5, 0.5]]


@pytest.mark.parametrize("chosen", [W8A8, W8A8_STATIC, WeightFormat(8), WeightFormat(4, 16)])
def test_rounded_weights_come_back_within_half_a_step(chosen: WeightFormat):
    weights = rows(40)
    codes, scales = round_weight(weights, chosen, False, None)
    found = dequantized(codes, scales, chosen, 40)
    assert found.shape == weights.shape
    assert np.abs(found - weights).max() <= np.abs(scales).max() * (0.5001 if chosen.bits == 8 else 1.0001)
    assert (codes.dtype == np.int8) == chosen.integer_product


def test_relative_error():
    assert relative_error(np.array([3.0, 4.0]), np.array([3.0, 3.0])) == pytest.approx(1 / 25)
    assert relative_error(np.zeros(3), np.ones(3)) == 0.0
