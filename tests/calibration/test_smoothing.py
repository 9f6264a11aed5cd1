"""Smoothing: chosen where it lowers the error, left out where it does not, harmless for channels that are zero."""

import numpy as np
import onnx_ir as ir
import pytest

from inference_pio.calibration import smoothing
from inference_pio.calibration.smoothing import LARGEST, WORTH_IT, Smoothing, search_smoothing, static_step
from inference_pio.calibration.statistics import TapStatistics
from inference_pio.calibration.taps import Absorber, Tap
from inference_pio.graphs.formats import FP32, W8A8, W8A8_STATIC, WeightFormat

COLUMNS = 64
INT4 = WeightFormat(4, 32)
FORMATS = [W8A8, W8A8_STATIC, INT4]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def planted(channels: tuple[int, ...] = (3, 20, 41), by: float = 60.0) -> np.ndarray:
    x = random(64, COLUMNS)
    x[:, list(channels)] *= np.float32(by)
    return x


def search(
    x: np.ndarray,
    weights: list[tuple[np.ndarray, WeightFormat]],
    rows: np.ndarray | None = None,
    exact: tuple[int, ...] = (),
    allowed: bool = True,
    absorber: bool = True,
) -> Smoothing:
    place = Absorber(("norm.weight",), np.arange(x.shape[1]) if rows is None else rows) if absorber else None
    statistics = TapStatistics(Tap(ir.Value(name="x"), ("w",), x.shape[1], place), 1, False)
    statistics.update(x)
    return search_smoothing(statistics, weights, exact, allowed)


@pytest.mark.parametrize("chosen", FORMATS)
def test_planted_outlier_channels_bring_the_error_down(chosen: WeightFormat):
    found = search(planted(), [(random(32, COLUMNS, seed=1), chosen)])
    assert found.strength is not None and found.error < 0.5 * found.plain_error
    assert set(np.argsort(found.factors)[-3:]) == {3, 20, 41}
    assert found.factors.dtype == np.float32 and (found.factors > 0).all()


@pytest.mark.parametrize("chosen", FORMATS)
def test_smoothing_that_is_not_worth_it_is_left_out(chosen: WeightFormat):
    even = np.where(random(64, COLUMNS) > 0, np.float32(1), np.float32(-1))
    weights = np.where(random(32, COLUMNS, seed=1) > 0, np.float32(1), np.float32(-1))
    found = search(even, [(weights, chosen)])
    assert found.strength is None and found.error == found.plain_error and (found.factors == 1).all()


@pytest.mark.parametrize("seed", range(6))
def test_what_is_chosen_is_worth_it(seed: int):
    found = search(random(40, COLUMNS, seed=seed), [(random(24, COLUMNS, seed=seed + 9), W8A8)])
    assert (found.strength is None) == (found.error == found.plain_error)
    assert found.strength is None or found.error <= WORTH_IT * found.plain_error


@pytest.mark.parametrize("chosen", FORMATS)
def test_the_share_of_the_error_decides(chosen: WeightFormat, monkeypatch: pytest.MonkeyPatch):
    weights = [(random(32, COLUMNS, seed=1), chosen)]
    best = search(planted(), weights)
    share = best.error / best.plain_error
    monkeypatch.setattr(smoothing, "WORTH_IT", share * 1.001)
    assert search(planted(), weights).strength == best.strength
    monkeypatch.setattr(smoothing, "WORTH_IT", share * 0.999)
    assert search(planted(), weights).strength is None


@pytest.mark.parametrize("reason", ["switch", "absorber", "format"])
def test_no_smoothing_where_it_is_not_possible(reason: str):
    weights = [(random(32, COLUMNS, seed=1), FP32 if reason == "format" else W8A8)]
    found = search(planted(), weights, allowed=reason != "switch", absorber=reason != "absorber")
    assert found.strength is None and (found.factors == 1).all()
    assert (found.plain_error > 0) == (reason != "format")


def test_channels_that_share_a_row_share_a_factor():
    rows = np.tile(np.arange(COLUMNS // 4), 4)
    x = random(64, COLUMNS)
    x[:, [5, 5 + 16]] *= 60
    found = search(x, [(random(32, COLUMNS, seed=1), W8A8)], rows)
    assert found.strength is not None
    factors = found.factors.reshape(4, -1)
    assert (factors == factors[0]).all() and factors[0].argmax() == 5


@pytest.mark.parametrize("chosen", FORMATS)
def test_channels_that_are_zero_keep_a_factor_of_one(chosen: WeightFormat):
    x, weights = planted(), random(32, COLUMNS, seed=1)
    x[:, [0, 10]], weights[:, [1, 10]] = 0, 0
    with np.errstate(all="raise", under="ignore"):
        found = search(x, [(weights, chosen)])
    assert found.strength is not None and (found.factors[[0, 1, 10]] == 1).all()
    assert np.isfinite(found.factors).all()


def test_all_zero_activations_or_weights():
    zero, some = np.zeros((5, COLUMNS), np.float32), random(5, COLUMNS)
    for x, weights in ((zero, some), (some, zero), (zero, zero)):
        for chosen in FORMATS:
            found = search(x, [(weights, chosen)])
            assert found.strength is None and found.error == found.plain_error == 0


def test_exact_columns_are_neither_smoothed_nor_counted():
    x = planted((3, 41))
    x[0, 7] = 5000
    found = search(x, [(random(32, COLUMNS, seed=1), W8A8)], exact=(7,))
    assert found.strength is not None and found.factors[7] == 1
    assert found.error < search(x, [(random(32, COLUMNS, seed=1), W8A8)]).plain_error / 2


def test_factors_stay_within_bounds():
    x = planted((3,), 1e6)
    x[:, 5] *= np.float32(1e-12)
    found = search(x, [(random(32, COLUMNS, seed=1), W8A8)])
    assert found.strength is not None
    assert found.factors.max() <= LARGEST and found.factors.min() >= np.float32(1) / LARGEST


def test_static_step_clips_nothing_but_leaves_out_exact_columns():
    largest, factors = np.array([10, 254, 6], np.float32), np.array([1, 2, 1], np.float32)
    assert static_step(largest, factors, ()) == pytest.approx(1.0)
    assert static_step(largest, factors, (1,)) == pytest.approx(10 / 127)
    assert static_step(np.zeros(3, np.float32), factors, ()) > 0
