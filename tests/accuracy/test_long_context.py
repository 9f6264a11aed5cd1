"""Scales of an int8 cache hold far beyond the positions that they were calibrated on."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_pio.calibration.options import CalibrationOptions
from inference_pio.calibration.pipeline import calibrate
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.verify import VerifyOptions, verify

CALIBRATED, LONG = 128, 4096


@pytest.fixture(scope="module")
def divergence(tiny: Path, tmp_path_factory: pytest.TempPathFactory):
    """Mean KL to the original of an artifact with an int8 cache, in windows of so many tokens."""
    folder = tmp_path_factory.mktemp("long")
    options = CalibrationOptions(precision="w8a8", samples=32, length=CALIBRATED, threads=1)
    calibrate(tiny, folder / "calibration", options).close()
    chosen = ExportOptions(precision="w8a8", calibration=folder / "calibration", kv_cache="int8", threads=1)
    export(tiny, folder / "artifact", chosen)

    def measure(window: int) -> float:
        asked = VerifyOptions(window=window, positions=LONG, threads=1, simulation=False)
        return verify(folder / "artifact", tiny, asked).metrics.kl_mean

    return measure


def test_long_windows_lose_no_more_than_short_ones(divergence):
    assert divergence(LONG) <= 1.25 * divergence(CALIBRATED)
