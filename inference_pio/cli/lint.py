"""What `inference-pio inspect --lint` does: judge graphs by the rules of a runtime that is not here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from inference_pio.artifact.bundle import Artifact
from inference_pio.cli.common import visible, write_json
from inference_pio.errors import BadInputError

if TYPE_CHECKING:
    from inference_pio.graphs.lint.linter import LintReport

EXIT_REFUSED = 3
EXPERTS = "experts"
"""The role of graphs that run on the CPU, whatever the target."""


def judge(path: Path, dialect: str, json_out: str | None) -> int:
    """Lint an ONNX file, or the graphs of an artifact's folder, print or write the result and return the exit code."""
    try:
        from inference_pio.graphs.lint import find_dialect
        from inference_pio.graphs.lint.linter import lint
    except ImportError as error:
        raise BadInputError(
            f"graphs cannot be read here ({error}): install the exporter with pip install 'inference-pio[export]'"
        ) from None
    rules = find_dialect(dialect)
    reports = [lint(file, rules) for file in _files(path)]
    accepted = all(report.accepted for report in reports)
    if json_out is not None:
        graphs = [report.to_dict() for report in reports]
        write_json({"dialect": dialect, "runtime": rules.runtime, "accepted": accepted, "graphs": graphs}, json_out)
    else:
        for report in reports:
            _show(report, rules.runtime)
    return 0 if accepted else EXIT_REFUSED


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    artifact = Artifact.open(path)
    graphs = [graph.file for graph in artifact.manifest.graphs if graph.role != EXPERTS]
    return [artifact.file(name) for name in graphs]


def _show(report: LintReport, runtime: str) -> None:
    count = len(report.findings)
    findings = f", {count} finding{'' if count == 1 else 's'}" if count else ""
    verdict = f"{'accepted' if report.accepted else 'refused'} by {runtime}{findings}"
    click.echo(f"{visible(report.file)}: {verdict}, {report.nodes} nodes")
    for finding in report.findings:
        place = f"node {finding.node} ({finding.operator}) " if finding.node else ""
        click.echo(visible(f"  {finding.rule}: {place}{finding.message}"))
