"""Who may import whom, read from the sources, so that an import inside a function counts as well."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import inference_pio

ROOT = Path(inference_pio.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
EVERYONE = {"errors", "version"}
LAYERS = [
    "machine",
    "artifact",
    "checkpoint",
    "graphs",
    "calibration",
    "build",
    "export",
    "planning",
    "verify",
    "models",
    "cli",
]
"""From the lowest up: a package may import those before it."""

ALLOWED = {name: set(LAYERS[:index]) for index, name in enumerate(LAYERS)}
ALLOWED["runtime"] = {"machine", "artifact"}
ALLOWED["tiny"] = set()
ALLOWED["common"] = {"models"}
for above in ("calibration", "build", "verify", "models", "cli"):
    ALLOWED[above] |= {"runtime"}
ALLOWED["cli"] |= {"tiny"}

FORBIDDEN = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript"}
STANDARD = set(sys.stdlib_module_names)


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Full names of everything that a file imports, anywhere in it, also by a literal name at run time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parent = ".".join(["inference_pio", *path.relative_to(ROOT).parts[:-1]])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively, line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__") and node.args:
            if isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)
            elif isinstance(node.args[0], ast.JoinedStr):
                yield _pattern(node.args[0], parent)


def _name(node: ast.AST) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def _pattern(text: ast.JoinedStr, parent: str) -> str:
    """A name that is put together at run time; `__name__` is the file's own package."""
    pieces = []
    for part in text.values:
        own = isinstance(part, ast.FormattedValue) and _name(part.value) == "__name__"
        pieces.append(str(part.value) if isinstance(part, ast.Constant) else parent if own else "x")
    return "".join(pieces)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_package_has_a_place_in_the_order():
    assert {package_of(path) for path in SOURCES} <= set(ALLOWED) | EVERYONE | {"__init__"}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_packages_import_downwards_only(path):
    own = package_of(path)
    allowed = ALLOWED.get(own, set()) | EVERYONE | {own}
    for name in imports(path):
        first, *rest = name.split(".")
        if first == "inference_pio" and rest:
            assert rest[0] in allowed or rest[0] in ("__version__",), f"{relative(path)} imports {name}"


def outside(path: Path) -> set[str]:
    """Third-party packages that a file imports."""
    return {name.split(".")[0] for name in imports(path)} - STANDARD - {"inference_pio"}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_heavy_libraries_stay_where_they_belong(path):
    found = outside(path)
    if not relative(path).startswith("verify/reference/"):
        assert not found & {"torch", "transformers"}
    if package_of(path) in ("machine", "runtime", "artifact", "checkpoint", "tiny", "errors.py", "cli"):
        assert not found & FORBIDDEN
    if package_of(path) in ("artifact", "checkpoint"):
        assert found <= {"numpy"}
    if package_of(path) == "runtime":
        pillow = {"PIL"} if relative(path) == "runtime/vision/pixels.py" else set()
        assert found <= {"numpy", "tokenizers", "jinja2", "psutil", "onnxruntime", "tensorrt"} | pillow
    if package_of(path) == "runtime" and "backends" not in path.parts:
        assert not found & {"onnxruntime", "tensorrt"}
    if package_of(path) != "build":
        assert "polygraphy" not in found


def test_the_reference_is_found():
    """Guards the rule above: the one package that may import torch does."""
    found = set().union(*(outside(path) for path in (ROOT / "verify" / "reference").glob("*.py")))
    assert {"torch", "transformers"} <= found


def comparisons(path: Path) -> Iterator[tuple[str, int]]:
    """Names that a file compares with literal strings, and the lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            literal = any(_is_text(side) for side in sides)
            yield from ((name, node.lineno) for side in sides if literal and (name := _name(side)) is not None)
        elif isinstance(node, ast.Match) and (name := _name(node.subject)) is not None:
            yield name, node.lineno


def _is_text(node: ast.AST) -> bool:
    items = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return any(isinstance(item, ast.Constant) and isinstance(item.value, str) for item in items)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_models_and_targets_are_asked_and_not_recognised(path):
    """No `if model_type == "..."` outside the architectures, no `if target == "..."` outside the targets."""
    homes = {"model_type": "graphs/architectures", "target": "graphs/targets", "hardware": "graphs/hardware"}
    for name, line in comparisons(path):
        home = homes.get(name)
        assert home is None or relative(path).startswith(home), f"{relative(path)}:{line} compares {name}"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_the_environment_is_read_by_the_command_line_alone(path):
    if package_of(path) in ("cli", "config", "models"):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv"))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_public_functions_name_their_parameters(path):
    """No **kwargs, except where the options of a command arrive by name."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and package_of(path) != "cli":
            assert node.args.kwarg is None, f"{relative(path)}:{node.lineno} {node.name} takes **kwargs"
