"""The import rules: data flows one way, the runtime stays free of heavy libraries."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import inference_pio

ROOT = Path(inference_pio.__file__).parent
ORDER = ["artifact", "checkpoint", "graphs", "calibration", "build", "export", "verify", "models", "cli"]
ALLOWED = {package: {*ORDER[: index + 1], "errors", "version"} for index, package in enumerate(ORDER)}
for package in ("calibration", "verify", "models", "cli"):
    ALLOWED[package].add("runtime")
ALLOWED["cli"].add("tiny")
ALLOWED["runtime"] = {"runtime", "artifact", "errors", "version"}
ALLOWED["tiny"] = {"tiny", "errors"}
HEAVY = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript"}
FILES = sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            if node.module == "inference_pio":
                yield from (f"inference_pio.{alias.name}" for alias in node.names)


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    package = package_of(path)
    if package.endswith(".py"):
        return  # errors, version, __init__
    inner = {name.split(".")[1] for name in imports(path) if name.startswith("inference_pio.")}
    assert inner <= ALLOWED[package] | {"__version__"}


def test_only_the_reference_imports_torch():
    users = {
        str(path.relative_to(ROOT))
        for path in FILES
        if {name.split(".")[0] for name in imports(path)} & {"torch", "transformers"}
    }
    assert users == {"verify/reference.py"}


@pytest.mark.parametrize("package", ["runtime", "artifact"])
def test_the_runtime_is_light(package):
    for path in (ROOT / package).rglob("*.py"):
        heavy = {name.split(".")[0] for name in imports(path)} & HEAVY
        assert not heavy, f"{path} imports {heavy}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_comparison_with_names_of_models_or_targets(path):
    """Ask an attribute instead: a name belongs into the table of architectures or targets."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare):
            names = {getattr(side, "attr", getattr(side, "id", "")) for side in (node.left, *node.comparators)}
            literal = any(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in node.comparators)
            assert not (literal and names & {"model_type", "target"}), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_environment_is_read_only_by_the_command_line(path):
    if package_of(path) in ("cli", "models", "config"):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = getattr(node, "attr", "")
        assert name not in ("environ", "getenv"), f"{path}:{getattr(node, 'lineno', 0)}"
