"""A report against an earlier one."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from inference_pio.errors import BadInputError
from inference_pio.verify.baseline import compare_with_baseline, read_report

BASE: dict[str, Any] = {
    "kl_mean": 1e-3,
    "top1_agreement": 0.98,
    "perplexity_ratio": 1.001,
    "positions": 4096,
    "kl_is_lower_bound": False,
    "gate": {"name": "int8"},
    "text": {"tokens_sha256": "aa", "window": 512},
}


@pytest.mark.parametrize(
    ("key", "allowed", "refused"),
    [
        ("kl_mean", 1.0999e-3, 1.1001e-3),
        ("top1_agreement", 0.97801, 0.97799),
        ("perplexity_ratio", 1.001 * 1.00199, 1.001 * 1.00201),
    ],
)
def test_each_figure_may_be_a_little_worse(key: str, allowed: float, refused: float) -> None:
    assert compare_with_baseline({**BASE, key: allowed}, BASE) == []
    failures = compare_with_baseline({**BASE, key: refused}, BASE)
    assert len(failures) == 1
    assert key in failures[0]


def test_better_figures_are_fine() -> None:
    assert compare_with_baseline({**BASE, "kl_mean": 0.0, "top1_agreement": 1.0, "perplexity_ratio": 0.9}, BASE) == []


def test_numerical_noise_of_float32_artifacts_is_no_growth() -> None:
    before = {**BASE, "kl_mean": 1e-12}
    assert compare_with_baseline({**BASE, "kl_mean": 9e-10}, before) == []
    assert compare_with_baseline({**BASE, "kl_mean": 2e-9}, before) != []


def test_a_broken_artifact_is_worse_than_anything() -> None:
    assert len(compare_with_baseline({**BASE, "kl_mean": None, "perplexity_ratio": None}, BASE)) == 2


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("text", "tokens_sha256"), "bb"),
        (("text", "window"), 256),
        (("positions",), 512),
        (("gate", "name"), "int4"),
        (("kl_is_lower_bound",), True),
    ],
)
def test_a_baseline_of_something_else_is_refused(path: tuple[str, ...], value: object) -> None:
    other = copy.deepcopy(BASE)
    place = other
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(BadInputError, match="baseline has another"):
        compare_with_baseline(BASE, other)


@pytest.mark.parametrize("key", BASE)
def test_a_baseline_without_a_key_is_refused(key: str) -> None:
    other = {name: value for name, value in BASE.items() if name != key}
    with pytest.raises(BadInputError, match="no report of verify"):
        compare_with_baseline(BASE, other)


@pytest.mark.parametrize("value", ["1e-3", True, [1], None, math.inf, math.nan])
def test_a_baseline_without_a_finite_figure_is_refused(value: object) -> None:
    with pytest.raises(BadInputError, match="no finite number"):
        compare_with_baseline(BASE, {**BASE, "kl_mean": value})


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{" * 5000, b'{"kl_mean": NaN}'])
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "baseline.json"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match="baseline"):
        read_report(path)


def test_reading_a_report(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(BASE))
    assert read_report(path) == BASE
    with pytest.raises(BadInputError, match="cannot be read"):
        read_report(tmp_path / "missing.json")
