"""Checkpoints, calibrated artifacts and their verification, each made once per session."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from plant_outliers import Kind, plant

from inference_pio.calibration.observers import ObserverKind
from inference_pio.calibration.options import CalibrationOptions, Switches
from inference_pio.calibration.pipeline import calibrate
from inference_pio.calibration.recipes import RECIPES
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.verify import Report, VerifyOptions, verify

SAMPLES, LENGTH = 64, 192
"""Of the bundled calibration text, with which no text of a verification has anything in common."""
POSITIONS, OUTLIER_POSITIONS = 2048, 1024
"""Of the bundled held-out text, in windows of 512 tokens: for the tiny checkpoint and for those with outliers."""
ALL_OFF = Switches(False, False, False, False, False)


@dataclass
class Lab:
    """Artifacts by (checkpoint, recipe); `plain` is the recipe's arithmetic with every step of a calibration off.

    A checkpoint is "tiny" or a kind of `tools/plant_outliers.py`.
    """

    folder: Path
    tiny: Path
    threads: int = 1
    _reports: dict[tuple[str, str, bool], Report] = field(default_factory=dict)

    def checkpoint(self, name: str) -> Path:
        path = self.folder / name
        if name == "tiny":
            return self.tiny
        if not path.exists():
            plant(self.tiny, path, Kind(name))
        return path

    def artifact(self, name: str, recipe: str, plain: bool = False) -> Path:
        out = self.folder / f"{name}-{recipe}-{'plain' if plain else 'calibrated'}"
        if not out.exists():
            calibration = self._calibration(name, recipe, plain) if RECIPES[recipe].calibrated else None
            options = ExportOptions(precision=recipe, calibration=calibration, threads=self.threads)
            export(self.checkpoint(name), out, options)
            if calibration is not None:
                shutil.rmtree(calibration)
        return out

    def report(self, name: str, recipe: str, plain: bool = False) -> Report:
        """A verification, with the simulation where all steps are on."""
        key = (name, recipe, plain)
        if key not in self._reports:
            positions = POSITIONS if name == "tiny" else OUTLIER_POSITIONS
            options = VerifyOptions(positions=positions, threads=self.threads, simulation=not plain)
            self._reports[key] = verify(self.artifact(*key), self.checkpoint(name), options)
        return self._reports[key]

    def _calibration(self, name: str, recipe: str, plain: bool) -> Path:
        options = CalibrationOptions(
            precision=recipe,
            samples=SAMPLES,
            length=LENGTH,
            switches=ALL_OFF if plain else Switches(),
            observer=ObserverKind.MIN_MAX if plain else None,
            threads=self.threads,
        )
        out = self.folder / f"{name}-{recipe}-{plain}.calibration"
        calibrate(self.checkpoint(name), out, options)
        return out


@pytest.fixture(scope="session")
def lab(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Where checkpoints become artifacts and reports."""
    return Lab(tmp_path_factory.mktemp("accuracy"), tiny)
