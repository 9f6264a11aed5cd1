"""Asking a dialect's rules about ONNX files, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inference_pio.graphs.lint.loading import load
from inference_pio.graphs.lint.rule import Dialect, Finding
from inference_pio.graphs.lint.scope import label, scopes


@dataclass(frozen=True)
class LintReport:
    """What a dialect says of one file: how many nodes were looked at, and every objection."""

    file: str
    dialect: str
    nodes: int
    findings: tuple[Finding, ...]

    @property
    def accepted(self) -> bool:
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "findings": [asdict(finding) for finding in self.findings], "accepted": self.accepted}


def lint(path: Path, dialect: Dialect) -> LintReport:
    """Ask every rule about a file; raises BadInputError when it is no ONNX model. External weights are not loaded."""
    findings: list[Finding] = []
    nodes = 0
    for scope in scopes(load(path), path):
        nodes += len(scope.nodes)
        inside = f"{scope.function}/" if scope.function else ""
        for rule in dialect.rules:
            for node, message in rule.check(scope):
                name, operator = ("", "") if node is None else (inside + label(node), node.op_type)
                findings.append(Finding(rule.name, name, operator, message))
    return LintReport(str(path), dialect.name, nodes, tuple(findings))
