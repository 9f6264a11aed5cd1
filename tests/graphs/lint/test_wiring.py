"""What is no graph is refused in every dialect; what only looks odd passes."""

from __future__ import annotations

import pytest
from lint_cases import graph, judged, refused_by
from onnx import parser

from inference_pio.errors import BadInputError
from inference_pio.graphs.lint import DIALECTS, find_dialect
from inference_pio.graphs.lint.linter import lint

X, Y = "float[2] x", "float[2] y"


def branches(first: str, second: str):
    then, other = f"a () => (float[2] t) {{ {first} }}", f"b () => (float[2] u) {{ {second} }}"
    return graph(f"y = If(c) <then_branch = {then}, else_branch = {other}>", "float[2] x, bool c", Y)


WRONG = {
    "a value from nowhere": ("reads 'z', which nothing gives", graph("y = Add(x, z)", X, Y)),
    "a value from nowhere in a branch": ("reads 'z'", branches("t = Neg(x)", "u = Neg(z)")),
    "a value from the other branch": ("reads 't'", branches("t = Neg(x)", "u = Neg(t)")),
    "an output from nowhere": ("the output 'y' is given by nothing", graph("z = Neg(x)", X, Y)),
    "two values of a name": ("gives 'y', which another node", graph("y = Neg(x) y = Relu(x)", X, Y)),
    "an input that is overwritten": ("gives 'x', which", graph("x = Neg(x) y = Neg(x)", X, Y)),
    "a circle": ("waits for its own result", graph("a = Add(x, b) b = Neg(a) y = Neg(b)", X, Y)),
    "a circle through a branch": (
        "waits for its own result",
        graph(
            "y = If(c) <then_branch = a () => (float[2] t) { t = Neg(b) }, else_branch = e () => (float[2] u) "
            "{ u = Neg(x) }> b = Neg(y)",
            "float[2] x, bool c",
            Y,
        ),
    ),
    "too few inputs": ("has 1 inputs, and 2 are taken", graph("y = Add(x)", X, Y)),
    "too many inputs": ("has 2 inputs, and 1 are taken", graph("y = Neg(x, x)", X, Y)),
    "no attribute": ("lacks the attribute 'equation'", graph("y = Einsum(x, x)", X, "float y")),
}
RIGHT = {
    "nodes in any order": graph("y = Neg(a) a = Relu(x)", X, Y),
    "branches with the same names": branches("p = Relu(x) q = Neg(p) t = Neg(q)", "q = Relu(x) p = Neg(q) u = Neg(p)"),
    "an optional input in between": graph("y = Clip(x, , h)", X, Y, "float h = {1}"),
    "no node at all": graph("", X, "float[2] x"),
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_graph(case, dialect, tmp_path):
    words, model = WRONG[case]
    found = [finding.message for finding in judged(model, dialect, tmp_path).findings if finding.rule == "wiring"]
    assert any(words in message for message in found), found


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("case", RIGHT)
def test_what_is_one(case, dialect, tmp_path):
    assert "wiring" not in refused_by(RIGHT[case], dialect, tmp_path)


def with_function(inner: str):
    return parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[2] x) => (float[2] y) {{ y = own.f(x) }}
        <domain: "own", opset_import: ["" : 17]> f (aaa) => (b) {{ {inner} }}"""
    )


def test_names_of_a_function_that_are_no_text(tmp_path):
    damaged = with_function("b = Relu(x)").SerializeToString().replace(b"aaa", b"a\xffa")
    (tmp_path / "model.onnx").write_bytes(damaged)
    with pytest.raises(BadInputError, match="names that are not UTF-8"):
        lint(tmp_path / "model.onnx", find_dialect("modern"))


def test_a_function_reads_its_inputs(tmp_path):
    for inner, right in (("b = Relu(aaa)", True), ("b = Relu(z)", False)):
        model = with_function(inner)
        assert ("wiring" not in refused_by(model, "modern", tmp_path)) == right
