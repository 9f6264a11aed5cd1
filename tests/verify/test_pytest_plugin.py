"""The fixture for other projects' tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from inference_pio.errors import BadInputError
from inference_pio.verify import Report, VerifyOptions
from inference_pio.verify.pytest_plugin import same_model

OPTIONS = VerifyOptions(window=32, positions=64, threads=1)


def test_a_sound_artifact(tiny: Path, tiny_artifact: Callable[[str], Path]) -> None:
    report = same_model(tiny_artifact("int8"), tiny, options=OPTIONS)
    assert isinstance(report, Report)
    assert report.passed


def test_a_failed_gate_is_an_assertion_with_the_reasons(tiny: Path, tiny_artifact: Callable[[str], Path]) -> None:
    with pytest.raises(AssertionError, match=r"gate fp32[^$]*kl_mean is"):
        same_model(tiny_artifact("int4"), tiny, "fp32", OPTIONS)


def test_bad_input_stays_bad_input(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(BadInputError):
        same_model(tmp_path, tiny)


def test_the_fixture_is_that_function_and_needs_no_option(tmp_path: Path) -> None:
    """The entry point of the installed package registers it."""
    code = "def test_it(assert_same_model):\n    assert assert_same_model.__name__ == 'same_model'\n"
    (tmp_path / "test_it.py").write_text(code)
    arguments = ["-q", "-p", "no:cacheprovider", str(tmp_path)]
    assert pytest.main([*arguments, "-c", "/dev/null", "--rootdir", str(tmp_path)]) == 0
