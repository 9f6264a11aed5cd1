"""An export that ends with a verification, and its progress."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.manifest import Accuracy
from inference_pio.errors import BadInputError, GateFailedError
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export

sys.path.insert(0, str(Path(__file__).parents[1]))
from artifact_cases import snapshot


class Gate:
    """A verifier that opens what it is given and answers as told."""

    def __init__(self, passed: bool) -> None:
        self.passed = passed
        self.seen: list[Path] = []

    def __call__(self, folder: Path) -> Accuracy:
        Artifact.open(folder)
        self.seen.append(folder)
        return Accuracy("int8", self.passed, {"kl_mean": 0.5}, [] if self.passed else ["mean KL is 0.5"])


def test_a_verifier_that_is_content_is_recorded(small, tmp_path):
    gate = Gate(True)
    artifact = export(small, tmp_path / "out", verifier=gate)
    assert artifact.manifest.accuracy == Accuracy("int8", True, {"kl_mean": 0.5}, [])
    assert len(gate.seen) == 1
    plain = export(small, tmp_path / "plain")
    assert artifact.manifest.fingerprint == plain.manifest.fingerprint


def test_a_verifier_that_fails_leaves_nothing(small, tmp_path):
    with pytest.raises(GateFailedError, match=r"failed gate int8 and was not kept: mean KL is 0\.5"):
        export(small, tmp_path / "out", verifier=Gate(False))
    assert list(tmp_path.iterdir()) == []


def test_a_verifier_that_fails_leaves_the_old_one(small, tmp_path):
    export(small, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    with pytest.raises(GateFailedError):
        export(small, tmp_path / "out", ExportOptions(precision="int4", force=True), verifier=Gate(False))
    assert snapshot(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_one_that_is_kept_says_so(small, tmp_path):
    from inference_pio.runtime import Engine, EngineConfig

    artifact = export(small, tmp_path / "out", ExportOptions(keep_failed=True), verifier=Gate(False))
    assert artifact.manifest.accuracy is not None
    assert not artifact.manifest.accuracy.passed
    with pytest.raises(BadInputError, match="failed its accuracy gate int8"):
        Engine.open(tmp_path / "out")
    Engine.open(tmp_path / "out", EngineConfig(allow_failed=True)).close()


def test_a_verifier_that_breaks_leaves_nothing(small, tmp_path):
    def broken(folder: Path) -> Accuracy:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(small, tmp_path / "out", verifier=broken)
    assert list(tmp_path.iterdir()) == []
