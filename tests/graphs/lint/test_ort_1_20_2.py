"""Every rule of onnxruntime-gpu 1.20.2 has a graph that passes and one that it refuses."""

from __future__ import annotations

import pytest
from lint_cases import graph, judged, refused_by

from inference_pio.graphs.lint import find_dialect

MS = '"com.microsoft" : 1'
QKV, OUT = "float[1,3,8] q, float[1,3,8] k, float[1,3,8] v", "float[1,3,8] y"
NBITS = "float[1,32] x, uint8[4,1,16] w, float[4] s"


def contrib(body: str, inputs: str, outputs: str, opset: int = 21, ir: int = 10):
    return graph(body, inputs, outputs, opset=opset, ir=ir, more=MS)


def heads(extra: str = "", names: str = "q, k, v"):
    return contrib(f"y = com.microsoft.MultiHeadAttention<num_heads = 2{extra}>({names})", QKV, OUT)


def missing_weight():
    model = graph("y = Add(x, w)", "float[2] x", "float[2] y", "float[2] w = {1, 2}")
    model.graph.initializer[0].data_location = 1
    model.graph.initializer[0].external_data.add(key="location", value="nowhere")
    return model


def products(bits: int):
    attributes = f"K = 32, N = 4, block_size = 32, bits = {bits}"
    return contrib(f"y = com.microsoft.MatMulNBits<{attributes}>(x, w, s)", NBITS, "float[1,4] y")


CASES = {
    "opset": (heads(), contrib("y = Relu(q)", QKV, OUT, opset=22)),
    "ir-version": (heads(), contrib("y = Relu(q)", QKV, OUT, ir=11)),
    "wiring": (heads(), heads(names="q, k, z")),
    "operator": (
        contrib("y = SimplifiedLayerNormalization(q, s)", QKV + ", float[8] s", OUT),
        contrib("y = com.microsoft.QLinearAdd(q, k)", QKV, OUT),
    ),
    "operand-type": (
        heads(),
        contrib("y = com.microsoft.GroupQueryAttention<num_heads = 2, kv_num_heads = 2>(q, k, v)", QKV, OUT),
    ),
    "form": (heads(), heads(", softcap = 5.0")),
    "bits": (products(4), products(8)),
    "external-data": (heads(), missing_weight()),
}
REFUSED_TOO = {
    "a newer input": ("form", heads(names="q, k, v, , , , , , q")),
    "an operand behind a contrib operator": (
        "operand-type",
        contrib(
            "h = com.microsoft.FastGelu(q) "
            "y = com.microsoft.GroupQueryAttention<num_heads = 2, kv_num_heads = 2>(h, k, v)",
            QKV,
            OUT,
        ),
    ),
    "a later operator": ("operator", contrib("y = RMSNormalization(q, s)", QKV + ", float[8] s", OUT, opset=23)),
}


def test_every_rule_has_its_graphs():
    assert set(CASES) == {rule.name for rule in find_dialect("ort-1.20.2").rules}


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_lets_the_right_graph_pass(rule, tmp_path):
    report = judged(CASES[rule][0], "ort-1.20.2", tmp_path)
    assert report.accepted, report.findings


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_refuses_the_wrong_graph(rule, tmp_path):
    assert rule in refused_by(CASES[rule][1], "ort-1.20.2", tmp_path)


@pytest.mark.parametrize("case", REFUSED_TOO)
def test_a_rule_refuses_its_other_cases(case, tmp_path):
    rule, model = REFUSED_TOO[case]
    assert rule in refused_by(model, "ort-1.20.2", tmp_path)
