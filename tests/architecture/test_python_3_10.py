"""What runs under Python 3.10 uses neither syntax nor modules of later versions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "inference_pio"
PARTS = ("runtime", "artifact", "machine", "build", "cli", "errors.py", "version.py", "__init__.py")
FILES = [file for part in PARTS for file in sorted((PACKAGE / part).rglob("*.py")) or [PACKAGE / part]]
LATER = {
    "tomllib": set(),
    "enum": {"StrEnum", "ReprEnum", "EnumCheck", "verify"},
    "typing": {"Self", "LiteralString", "Never", "assert_never", "assert_type", "reveal_type", "Required", "override"}
    | {"NotRequired", "Unpack", "TypeVarTuple", "dataclass_transform", "TypeAliasType"},
    "datetime": {"UTC"},
    "contextlib": {"chdir"},
    "hashlib": {"file_digest"},
    "itertools": {"batched"},
    "operator": {"call"},
    "math": {"cbrt", "exp2", "sumprod"},
    "asyncio": {"TaskGroup", "timeout", "Runner"},
}
"""Modules, or names in modules, that Python 3.10 lacks."""
BUILTINS = {"ExceptionGroup", "BaseExceptionGroup"}


def later_names(tree: ast.AST) -> list[str]:
    """Names of LATER that a file uses."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in LATER:
            names = {alias.name for alias in node.names}
            found += [f"{node.module}.{name}" for name in names if not LATER[node.module] or name in LATER[node.module]]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in LATER and not LATER[alias.name]]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found += [f"{node.value.id}.{node.attr}"] * (node.attr in LATER.get(node.value.id, ()))
        elif isinstance(node, ast.Name) and node.id in BUILTINS:
            found.append(node.id)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_python_3_10(path):
    assert later_names(ast.parse(path.read_text(), feature_version=(3, 10))) == []


@pytest.mark.parametrize(
    "text",
    [
        "import tomllib",
        "from tomllib import loads",
        "from enum import StrEnum",
        "import enum\nclass A(enum.StrEnum): pass",
        "from typing import Self",
        "import hashlib\nhashlib.file_digest(f, 'sha256')",
        "raise ExceptionGroup('a', [])",
    ],
)
def test_later_names_are_found(text):
    assert later_names(ast.parse(text))


def test_later_syntax_is_found():
    with pytest.raises(SyntaxError):
        ast.parse("try:\n    pass\nexcept* ValueError:\n    pass", feature_version=(3, 10))
