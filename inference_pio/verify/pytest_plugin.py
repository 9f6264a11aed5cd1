"""A pytest fixture for projects that ship an artifact: `assert_same_model(artifact, checkpoint)`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from inference_pio.verify.options import VerifyOptions
    from inference_pio.verify.report import Report

AssertSameModel = Callable[..., "Report"]


@pytest.fixture
def assert_same_model() -> AssertSameModel:
    """A function that verifies an artifact and raises AssertionError with what failed; see `same_model`."""
    return same_model


def same_model(
    artifact: str | Path,
    checkpoint: str | Path | None,
    gate: str | Path | None = None,
    options: VerifyOptions | None = None,
) -> Report:
    """Verify `artifact` against `checkpoint`; returns the report, raises AssertionError when the gate is not met.

    `gate` overrides the one in `options`. Raises what `verify` raises.
    """
    from dataclasses import replace

    from inference_pio.verify.options import VerifyOptions
    from inference_pio.verify.pipeline import verify

    options = options or VerifyOptions()
    if gate is not None:
        options = replace(options, gate=gate)
    report = verify(artifact, checkpoint, options)
    if not report.passed:
        failures = "\n".join(f"  {failure}" for failure in report.gate.failures)
        raise AssertionError(f"{artifact} is not the model in {checkpoint} (gate {report.gate.name}):\n{failures}")
    return report
