"""Damage to an engine is found and named by the gates, even where it hides in rounding noise."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inference_pio.runtime.tokenizer import Tokenizer
from inference_pio.verify import VerifyOptions, verify
from inference_pio.verify.baseline import read_report

sys.path.insert(0, str(Path(__file__).parents[1]))
from verify_cases import SMALL, Make, damage


def late_error(logits: np.ndarray) -> np.ndarray:
    logits[40:] += np.random.default_rng(0).normal(0, 1.5, logits[40:].shape).astype(np.float32)
    return logits


def shifted(logits: np.ndarray) -> np.ndarray:
    return np.roll(logits, 1, axis=0)


def broken(logits: np.ndarray) -> np.ndarray:
    logits[5, 9] = np.nan
    return logits


@pytest.mark.parametrize("change", [late_error, shifted, broken])
@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_wrong_logits_fail_the_absolute_gate(
    change: Callable[[np.ndarray], np.ndarray],
    precision: str,
    tiny: Path,
    tiny_artifact: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damage(monkeypatch, change)
    report = verify(tiny_artifact(precision), tiny, VerifyOptions(**SMALL))
    assert not report.passed
    assert any(failure.startswith("kl_mean is") for failure in report.gate.failures)
    report.write_json(tmp_path / "report.json")
    report.write_html(tmp_path / "report.html")
    assert read_report(tmp_path / "report.json")["gate"]["passed"] is False


def test_a_bug_that_hides_in_quantization_noise_fails_the_excess_gate(
    tiny: Path, tiny_artifact: Make, loose: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The damage leaves first choices alone and KL far below the absolute bound."""
    damage(monkeypatch, lambda logits: logits * np.float32(1.05))
    artifact = tiny_artifact("int4")
    report = verify(artifact, tiny, VerifyOptions(**SMALL, gate=loose))
    assert not report.passed
    assert all("simulation" in failure for failure in report.gate.failures)
    assert verify(artifact, tiny, VerifyOptions(**SMALL, gate=loose, simulation=False)).passed


def test_another_tokenization_fails_whatever_the_logits(
    tiny: Path, tiny_artifact: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, text: [*sound(self, text)[:7], 5, *sound(self, text)[8:]])
    report = verify(tiny_artifact("fp32"), tiny, VerifyOptions(**SMALL))
    assert not report.passed
    assert len(report.gate.failures) == 1
    assert "tokenizer: token 7 differs" in report.gate.failures[0]
