"""The report as one self-contained page: no scripts, no network, inline style and plots."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from inference_pio.verify import plots

PERCENT = frozenset({"top1_agreement", "top1_agreement_clear", "top5_agreement"})

FIGURES = (
    ("kl_mean", "Mean KL", "nats per position between the two next-token distributions"),
    ("kl_p99", "KL, 99th percentile", "one position in a hundred is further apart"),
    ("kl_max", "KL, largest", "the worst position, shown below"),
    ("top1_agreement", "Same first choice", "share of all positions"),
    ("top1_agreement_clear", "Same first choice, clear", "without the original's near ties"),
    ("top5_agreement", "First choice in the original's five", "share of all positions"),
    ("perplexity", "Perplexity, artifact", "on the tokens that really follow"),
    ("reference_perplexity", "Perplexity, original", "on the same tokens"),
    ("perplexity_ratio", "Perplexity ratio", "artifact over original"),
    ("max_logit_difference", "Largest logit difference", "over all positions and tokens"),
)


def render(report: Mapping[str, Any]) -> str:
    """The page for a report's dictionary (`Report.to_dict()`)."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = figure
    environment.filters["visible"] = visible
    environment.filters["token"] = token
    template = environment.from_string(
        files("inference_pio.verify").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )
    return template.render(report=report, figures=FIGURES, plots=_plots(report)) + "\n"


def figure(value: float | None, metric: str = "") -> str:
    """A figure for people; agreements as percentages."""
    if value is None:
        return "not measured"
    if metric in PERCENT:
        return f"{value:.3%}"
    return f"{value:.6f}" if metric == "perplexity_ratio" else plots.number(value)


def visible(text: str) -> str:
    """Text whose line ends and tabs can be seen."""
    return text.replace("\r", "␍").replace("\n", "⏎\n").replace("\t", "→\t") or "(nothing)"


def token(text: str) -> str:
    """The text of one token on one line, spaces included."""
    return visible(text).replace("\n", "").replace("\t", "").replace(" ", "␣")


def _plots(report: Mapping[str, Any]) -> list[tuple[str, str, Markup]]:
    """(title, what to look for, SVG) of each plot."""
    spread, stretches, windows = report["kl_histogram"], report["kl_by_offset"], report["windows"]
    found = [
        (
            "How KL is spread",
            "A healthy artifact has one hump; a second one far to the right is a bug, not rounding.",
            plots.histogram(spread["edges"], spread["counts"], report["kl_mean"], "mean"),
        ),
        (
            "KL by place in the window",
            "It should not climb: that would point to positions, masks or the cache.",
            plots.lines(
                "Mean KL by place in the window",
                [str(stretch["start"]) for stretch in stretches],
                "token of the window",
                "mean KL, nats",
                [plots.Series("artifact", "artifact", [stretch["kl_mean"] for stretch in stretches])],
            ),
        ),
        (
            "Perplexity of each window",
            "The two lines should lie on each other.",
            plots.lines(
                "Perplexity of each window",
                [str(index + 1) for index in range(len(windows))],
                "window",
                "perplexity",
                [
                    plots.Series("original", "original", [w["reference_perplexity"] for w in windows]),
                    plots.Series("artifact", "artifact", [w["perplexity"] for w in windows]),
                ],
            ),
        ),
    ]
    if report["calibration"] is not None:
        errors = report["calibration"]["layer_errors"]
        found.append(
            (
                "Rounding error of each layer",
                "Of what a layer adds to its input, as a share of its power. One layer far above the rest is worth an "
                "exception.",
                plots.lines(
                    "Rounding error of each layer",
                    [str(index) for index in range(len(errors))],
                    "layer",
                    "squared error, share",
                    [plots.Series("artifact", "artifact", errors)],
                ),
            )
        )
    if report["simulation"] is not None:
        checks = report["gate"]["checks"]
        limit = next((c["limit"] for c in checks if c["metric"] == "kl_mean against simulation"), None)
        rows = [
            ("simulation", "original", report["simulation"]["kl_mean"]),
            ("artifact", "artifact", report["kl_mean"]),
        ]
        found.append(
            (
                "Artifact and simulation",
                "Mean KL from the original: what these rounded weights cost at best, and what the artifact costs.",
                plots.bars("Mean KL of artifact and simulation", rows, limit),
            )
        )
    return found
