"""Branches that share names are judged by their own values."""

from __future__ import annotations

import pytest
from lint_cases import graph, judged

from inference_pio.graphs.lint.names import separate_siblings

CASTS = {"float": "t = Cast<to = 1>(x) {0} = Cast<to = 1>(t)", "bfloat16": "t = Cast<to = 16>(x) {0} = Cast<to = 1>(t)"}


def branches(first: str, second: str):
    then = f"a () => (float[2] p) {{ {CASTS[first].format('p')} }}"
    other = f"b () => (float[2] q) {{ {CASTS[second].format('q')} }}"
    body = f"y = If(c) <then_branch = {then}, else_branch = {other}>"
    return graph(body, "float[2] x, bool c", "float[2] y")


@pytest.mark.parametrize(("first", "second"), [("float", "bfloat16"), ("bfloat16", "float")])
def test_a_type_in_one_branch_says_nothing_of_the_other(first, second, tmp_path):
    report = judged(branches(first, second), "trt85", tmp_path)
    wrong = "p" if first == "bfloat16" else "q"
    assert {finding.node for finding in report.findings if finding.rule == "operand-type"} == {wrong}
    assert judged(branches("float", "float"), "trt85", tmp_path).accepted


def test_names_change_where_siblings_share_them_alone():
    model = branches("float", "float")
    inner = model.graph.node[0].attribute[1].g
    inner.initializer.add(name="w", data_type=1, dims=[0])
    separate_siblings(model.graph)
    then, other = (attribute.g for attribute in model.graph.node[0].attribute)
    assert [list(node.input) + list(node.output) for node in then.node] == [["x", "t"], ["t", "p"]]
    assert [list(node.input) + list(node.output) for node in other.node] == [["x", "t#2"], ["t#2", "q"]]
    assert other.initializer[0].name == "w" and model.graph.input[0].name == "x"
