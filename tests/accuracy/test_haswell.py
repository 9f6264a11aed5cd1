"""The tiny artifacts on an emulated CPU without VNNI pass the gates that they pass here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_pio.verify import VerifyOptions, verify

sys.path.insert(0, str(Path(__file__).parents[1]))
from qemu import needs_haswell, run_haswell

POSITIONS = 256


@pytest.fixture(scope="module")
def reference(tiny: Path, tiny_artifact: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original's answers, so that nothing heavier than the engine runs on the emulated CPU."""
    place = tmp_path_factory.mktemp("reference") / "tiny.npz"
    options = VerifyOptions(positions=POSITIONS, window=128, simulation=False, save_reference=place)
    verify(tiny_artifact("int8"), tiny, options)
    return place


@needs_haswell
@pytest.mark.parametrize("precision", ["int8", "w8a8", "w8a8-static", "int4-calibrated"])
def test_the_same_gate(tiny_artifact: Callable[[str], Path], reference: Path, tmp_path: Path, precision: str) -> None:
    artifact, out = tiny_artifact(precision), tmp_path / "report.json"
    arguments = ["-m", "inference_pio.cli", "verify", str(artifact), "--reference", str(reference), "--json", str(out)]
    done = run_haswell(arguments, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    there = json.loads(out.read_text())
    here = verify(artifact, None, VerifyOptions(reference=reference))
    assert there["gate"]["passed"] and here.passed
    assert there["positions"] == POSITIONS
    assert there["kl_mean"] == pytest.approx(here.metrics.kl_mean, rel=0.25)
