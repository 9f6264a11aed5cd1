"""Text that was calibrated on is refused; the report shows what the calibration said."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.calibration.documents import CORPUS
from inference_pio.calibration.examples import Example, pixel_digest
from inference_pio.calibration.fingerprint import TextFingerprint
from inference_pio.errors import BadInputError
from inference_pio.verify import VerifyOptions, verify
from inference_pio.verify.calibration_facts import calibration_facts, refuse_calibrated_examples
from inference_pio.verify.examples import read_examples


@pytest.fixture(scope="module")
def text_of_the_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "own.txt"
    path.write_text("".join(file.read_text() for file in sorted((CORPUS / "code").iterdir())), encoding="utf-8")
    return path


def test_text_that_was_calibrated_on(
    tiny: Path, tiny_artifact: Callable[[str], Path], text_of_the_corpus: Path
) -> None:
    options = VerifyOptions(text=text_of_the_corpus, positions=128, simulation=False)
    with pytest.raises(BadInputError, match="was calibrated on the verification text"):
        verify(tiny_artifact("w8a8"), tiny, options)
    verify(tiny_artifact("int8"), tiny, options)  # was not calibrated


def test_images_that_were_calibrated_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_examples(None).examples
    digests = [pixel_digest(file) for example in found for file in example.files]
    artifact = cast(Artifact, SimpleNamespace(path=tmp_path))

    def refuse(images: object, examples: Sequence[Example] = found) -> None:
        facts = {"images": images, "fingerprint": TextFingerprint.of("nothing of that kind").to_json()}
        monkeypatch.setattr("inference_pio.verify.calibration_facts.calibration_of", lambda _: facts)
        refuse_calibrated_examples(artifact, examples)

    refuse([])
    refuse([f"{number:016x}" for number in range(100)])
    refuse([*digests[:4], *(f"{number:016x}" for number in range(1000))])
    with pytest.raises(BadInputError, match="calibrated on 12 of the 151 images: verify on others"):
        refuse([*digests[:12], *(f"{number:016x}" for number in range(1000))])
    with pytest.raises(BadInputError, match="calibrated on 1 of the 151 images"):
        refuse(digests[:1])  # all that was calibrated on
    for damaged in ("x", [5], {"a": "b"}):
        with pytest.raises(BadInputError, match="is damaged"):
            refuse(damaged)


def test_the_report_names_the_worst_layers(tiny: Path, tiny_artifact: Callable[[str], Path], tmp_path: Path) -> None:
    report = verify(tiny_artifact("w8a8"), tiny, VerifyOptions(positions=128, simulation=False))
    assert report.calibration is not None
    assert len(report.calibration["layer_errors"]) == 5 and len(report.calibration["worst"]) == 10
    worst = report.calibration["worst"][0]
    assert all(linear["error"] <= worst["error"] for linear in report.calibration["worst"])
    report.write_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert worst["tensor"] in page and "Rounding error of each layer" in page
    assert calibration_facts(Artifact.open(tiny_artifact("int8"))) is None


def test_a_damaged_calibration(tiny_artifact: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = Artifact.open(tiny_artifact("w8a8"))
    facts = json.loads((artifact.path / "calibration.json").read_text())
    for key in ("worst", "layer_errors", "bought", "text"):
        broken = {name: value for name, value in facts.items() if name != key}
        monkeypatch.setattr("inference_pio.verify.calibration_facts.calibration_of", lambda _, broken=broken: broken)
        with pytest.raises(BadInputError, match="is damaged"):
            calibration_facts(artifact)
