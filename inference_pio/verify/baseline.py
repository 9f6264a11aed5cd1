"""Is a report worse than an earlier one of the same comparison?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference_pio.artifact.strict_json import parse_json
from inference_pio.errors import BadInputError
from inference_pio.verify.gates import baseline_limits

SAME = {
    "text": ("text", "tokens_sha256"),
    "window": ("text", "window"),
    "number of positions": ("positions",),
    "gate": ("gate", "name"),
    "kind of reference": ("kl_is_lower_bound",),
}
"""What two reports must share before their figures may be compared, and where it stands in them."""


def read_report(path: Path) -> dict[str, Any]:
    """A report written by `Report.write_json`; raises BadInputError for anything else."""
    try:
        report = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"baseline {path} cannot be read ({error.strerror}): give a report of verify") from error
    except ValueError as error:
        raise BadInputError(f"baseline {path} is not a JSON report of verify: {error}") from error
    if not isinstance(report, dict):
        raise BadInputError(f"baseline {path} is not a JSON report of verify: it holds no object")
    return report


def compare_with_baseline(report: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[str]:
    """What became worse by more than `gates.json` allows, in words; empty when nothing did.

    Both are dictionaries of `Report.to_dict()`. Raises BadInputError when they compare different things: another
    text, window, number of positions, gate or kind of reference.
    """
    for what, keys in SAME.items():
        now, before = _at(report, keys), _at(baseline, keys)
        if now != before:
            raise BadInputError(
                f"the baseline has another {what} ({before} instead of {now}): make a baseline with the same settings"
            )
    limits = baseline_limits()
    kl, kl_before = _measured(report, "kl_mean", math.inf), _recorded(baseline, "kl_mean")
    top1, top1_before = _measured(report, "top1_agreement", 0.0), _recorded(baseline, "top1_agreement")
    ratio, ratio_before = _measured(report, "perplexity_ratio", math.inf), _recorded(baseline, "perplexity_ratio")
    failures = []
    if not kl <= kl_before * (1 + limits["kl_mean_growth"]) + limits["kl_mean_floor"]:
        failures.append(f"kl_mean grew from {kl_before:.6g} to {kl:.6g}")
    if not top1 >= top1_before - limits["top1_agreement_drop"]:
        failures.append(f"top1_agreement fell from {top1_before:.4%} to {top1:.4%}")
    if not ratio <= ratio_before * (1 + limits["perplexity_ratio_growth"]):
        failures.append(f"perplexity_ratio rose from {ratio_before:.6g} to {ratio:.6g}")
    return failures


def _at(report: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    value: Any = report
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            raise BadInputError(f"the baseline is no report of verify: it lacks '{'.'.join(keys)}'")
        value = value[key]
    return value


def _measured(report: Mapping[str, Any], key: str, worst: float) -> float:
    """A figure of the new report; null stands for one that is not finite."""
    value = report[key]
    return worst if value is None else float(value)


def _recorded(baseline: Mapping[str, Any], key: str) -> float:
    value = _at(baseline, (key,))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadInputError(f"the baseline's '{key}' is no finite number: make another baseline")
    return float(value)
