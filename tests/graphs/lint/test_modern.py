"""Every rule of TensorRT 10.15 has a graph that passes and one that it refuses."""

from __future__ import annotations

import pytest
from lint_cases import judged, refused_by
from modern_cases import CASES, REFUSED_TOO

from inference_pio.graphs.lint import find_dialect


def test_every_rule_has_its_graphs():
    assert set(CASES) == {rule.name for rule in find_dialect("modern").rules}


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_lets_the_right_graph_pass(rule, tmp_path):
    report = judged(CASES[rule][0], "modern", tmp_path)
    assert report.accepted, report.findings


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_refuses_the_wrong_graph(rule, tmp_path):
    assert rule in refused_by(CASES[rule][1], "modern", tmp_path)


@pytest.mark.parametrize("case", REFUSED_TOO)
def test_a_rule_refuses_its_other_cases(case, tmp_path):
    rule, model = REFUSED_TOO[case]
    assert rule in refused_by(model, "modern", tmp_path)
