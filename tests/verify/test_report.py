"""The report's JSON form."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from inference_pio.errors import BadInputError
from inference_pio.verify.gates import Excess, GateResult
from inference_pio.verify.metrics import Metrics
from inference_pio.verify.report import Report

BROKEN = Metrics(math.inf, math.inf, math.inf, 0.0, None, 0.0, math.inf, 10.0, math.inf, math.inf, 100, 0)
REPORT = Report(
    gate=GateResult("int8", False, ["kl_mean is inf, at most 0.003 is allowed"]),
    metrics=BROKEN,
    clear_gap=0.1,
    kl_is_lower_bound=False,
    simulation=BROKEN,
    excess=Excess(math.inf, math.inf, math.nan, None),
    artifact={"name": "artifact"},
    text={"name": "text"},
    tokenizer={"matches": True},
    source_matches=True,
    versions={},
    findings={"worst_positions": [{"kl": math.inf, "context": "⏎ \U0001f600"}]},
)


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    REPORT.write_json(path)
    report = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert report["kl_mean"] is None
    assert report["simulation"]["perplexity_ratio"] is None
    assert report["excess"]["agreement_max_logit_difference"] is None
    assert report["worst_positions"] == [{"kl": None, "context": "⏎ \U0001f600"}]
    assert report["positions"] == 100
    assert report["passed"] is report["gate"]["passed"] is False


def test_the_manifests_part_is_finite_too() -> None:
    accuracy = REPORT.to_accuracy()
    assert not accuracy.passed
    assert accuracy.metrics["kl_mean"] is None
    assert accuracy.metrics["reference_perplexity"] == 10.0
    assert accuracy.failures == REPORT.gate.failures


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot be written"):
        REPORT.write_json(tmp_path / "missing" / "report.json")
