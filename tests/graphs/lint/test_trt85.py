"""Every rule of TensorRT 8.5 has a graph that passes and one that it refuses."""

from __future__ import annotations

import onnx
import pytest
from lint_cases import QDQ, SCALES, graph, judged, refused_by
from onnx import parser

from inference_pio.graphs.lint import find_dialect

X = "float[1,2] x"
Y = "float[1,3] y"


def relu(inputs: str = "float[2] x", outputs: str = "float[2] y", **more) -> onnx.ModelProto:
    return graph("y = Relu(x)", inputs, outputs, **more)


def quantized(body: str = QDQ, scales: str = SCALES, inputs: str = X, outputs: str = Y) -> onnx.ModelProto:
    return graph(body, inputs, outputs, scales)


def with_function() -> onnx.ModelProto:
    return parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[2] x) => (float[2] y) { y = own.f(x) }
        <domain: "own", opset_import: ["" : 17]> f (a) => (b) { b = Relu(a) }"""
    )


def external(length: int) -> onnx.ModelProto:
    """A weight of eight bytes in a file, of which `length` are claimed."""
    model = graph("y = Add(x, w)", "float[2] x", "float[2] y", "float[2] w = {1, 2}")
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "model.onnx.data"), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return model


def branches(second: str) -> onnx.ModelProto:
    body = f"y = If(c) <then_branch = a () => (float[2] t) {{ t = Relu(x) }}, else_branch = b () => {second}>"
    return graph(body, "float[2] x, bool c", "float[2] y")


SAME_SCALES = SCALES.replace("float[3] ws = {0.5,0.5,0.5}, int8[3] wz = {0,0,0}", "float ws = {0.5}, int8 wz = {0}")
DEQUANTIZED = "xq = QuantizeLinear(x, xs, xz) xd = DequantizeLinear(xq, xs, xz)"
ONE = "float xs = {0.5}, int8 xz = {0}"


def grouped_convolution(inputs: int, outputs: int, groups: int = 2) -> onnx.ModelProto:
    """An int8 convolution of groups with so many channels on either side."""
    sizes = f"int8[{groups * outputs},{inputs},1,1] w"
    values = ",".join(["1"] * groups * inputs * outputs)
    return graph(
        f"{DEQUANTIZED} wd = DequantizeLinear(w, xs, xz) y = Conv<group = {groups}>(xd, wd)",
        f"float[1,{groups * inputs},1,1] x",
        f"float[1,{groups * outputs},1,1] y",
        f"{ONE}, {sizes} = {{{values}}}",
    )


CASES = {
    "opset": (relu(), relu(opset=18)),
    "functions": (relu(), with_function()),
    "operator": (
        graph("y = Mod(x, x)", "int32[2] x", "int32[2] y"),
        graph("y = LayerNormalization(x, s)", "float[2,4] x, float[4] s", "float[2,4] y"),
    ),
    "operand-type": (
        graph("y = CumSum(x, a)", "float[2,4] x", "float[2,4] y", "int64 a = {1}"),
        graph("y = CumSum(x, a)", "int32[2,4] x", "int32[2,4] y", "int64 a = {1}"),
    ),
    "value-type": (
        graph("y = Cast<to = 10>(x)", "float[2] x", "float16[2] y"),
        graph("y = Cast<to = 16>(x)", "float[2] x", "bfloat16[2] y"),
    ),
    "uint8": (
        graph("y = Cast<to = 1>(x)", "uint8[2] x", "float[2] y"),
        graph("z = Reshape(x, s) y = Cast<to = 1>(z)", "uint8[2] x", "float[1,2] y", "int64[2] s = {1, 2}"),
    ),
    "interface": (
        graph("y = Cast<to = 1>(x)", "int32[2] x", "float[2] y"),
        graph("y = Cast<to = 1>(x)", "int64[2] x", "float[2] y"),
    ),
    "wide-integer": (
        graph("y = Slice(x, s, e)", "float[5] x", "float[5] y", f"int64[1] s = {{0}}, int64[1] e = {{{2**62}}}"),
        graph("y = Gather(x, i)", "float[5] x", "float[1] y", f"int64[1] i = {{{2**62}}}"),
    ),
    "constant-input": (
        graph("y = Unsqueeze(x, a)", "float[5] x", "float[1,5] y", "int64[1] a = {0}"),
        graph("b = Neg(a) y = Unsqueeze(x, b)", "float[5] x, int32[1] i", "float[1,5] y", "int64[1] a = {0}"),
    ),
    "reduce-axes": (
        graph("y = ReduceMean<axes = [1]>(x)", "float[2,3] x", "float[2,1] y"),
        graph("y = ReduceMean(x, a)", "float[2,3] x", "float[2,1] y", "int64[1] a = {1}", opset=18),
    ),
    "trilu-rank": (
        graph("y = Trilu(x)", "float[1,3,3] x", "float[1,3,3] y"),
        graph("y = Trilu(x)", "float[1,1,3,3] x", "float[1,1,3,3] y"),
    ),
    "gemm-rank": (
        graph("y = Gemm(x, w)", "float[2,3] x, float[3,4] w", "float[2,4] y"),
        graph("y = Gemm(x, w)", "float[1,2,3] x, float[3,4] w", "float[1,2,4] y"),
    ),
    "einsum": (
        graph('y = Einsum<equation = "ij,jk->ik">(x, x)', "float[3,3] x", "float[3,3] y"),
        graph('y = Einsum<equation = "...j,jk->...k">(x, x)', "float[3,3] x", "float[3,3] y"),
    ),
    "pool-indices": (
        graph("y = MaxPool<kernel_shape = [1, 1]>(x)", "float[1,1,2,2] x", "float[1,1,2,2] y"),
        graph(
            "y, i = MaxPool<kernel_shape = [1, 1]>(x) j = Cast<to = 6>(i)",
            "float[1,1,2,2] x",
            "float[1,1,2,2] y, int32[1,1,2,2] j",
        ),
    ),
    "branches": (branches("(float[2] u) { u = Neg(x) }"), branches("(float[2] t) { t = Neg(x) }")),
    "volume": (
        graph("y = Neg(x)", "float[46340,46340] x", "float[46340,46340] y"),
        graph("y = Neg(x)", "float[46341,46341] x", "float[46341,46341] y"),
    ),
    "rank": (
        graph("y = Neg(x)", "float[1,1,1,1,1,1,1,2] x", "float[1,1,1,1,1,1,1,2] y"),
        graph("y = Neg(x)", "float[1,1,1,1,1,1,1,1,2] x", "float[1,1,1,1,1,1,1,1,2] y"),
    ),
    "external-data": (external(8), external(9)),
    "zero-point-missing": (quantized(), quantized(QDQ.replace("(xq, xs, xz)", "(xq, xs)"))),
    "zero-point": (quantized(), quantized(scales=SCALES.replace("wz = {0,0,0}", "wz = {0,1,0}"))),
    "scale": (quantized(), quantized(scales=SCALES.replace("xs = {0.5}", "xs = {-0.5}"))),
    "scale-axis": (quantized(scales=SAME_SCALES), quantized(QDQ.replace("axis = 1", "axis = 0"))),
    "quantized-type": (
        quantized(),
        graph(
            QDQ.replace("y =", "m =") + "b = DequantizeLinear(bq, xs, bz) y = Add(m, b)",
            X,
            Y,
            SCALES + ", int32[3] bq = {1, 2, 3}, int32 bz = {0}",
        ),
    ),
    "int8-constant": (
        quantized(),
        graph("t = Gather(w, i) y = Cast<to = 1>(t)", "int32[1] i", "float[1,3] y", "int8[2,3] w = {1,2,3,4,5,6}"),
    ),
    "one-sided": (
        graph("y = MatMul(x, w)", X, Y, "float[2,3] w = {1,2,3,4,5,6}"),
        graph(DEQUANTIZED + " y = MatMul(xd, w)", X, Y, ONE + ", float[2,3] w = {1,2,3,4,5,6}"),
    ),
    "weight-moved": (
        quantized(),
        quantized(QDQ.replace("MatMul(xd, wd)", "MatMul(xd, wt)").replace("y =", "wt = Transpose(wd) y =")),
    ),
    "channels": (quantized(inputs="float[N,2] x", outputs="float[N,3] y"), quantized(inputs="float[1,N] x")),
    "group-size": (grouped_convolution(4, 8), grouped_convolution(4, 6)),
    "float-region": (
        graph(DEQUANTIZED + " y = Reshape(xd, s)", X, "float[2,1] y", ONE + ", int64[2] s = {2, 1}"),
        graph(DEQUANTIZED + " y = Softmax(xd)", X, "float[1,2] y", ONE),
    ),
}


SCALE_NODE = "c = Cast<to = 1>(ch) xq = QuantizeLinear(x, c, xz) y = DequantizeLinear(xq, c, xz)"
HALF = "float16 ch = {15360}, int8 xz = {0}"
REFUSED_TOO = {
    "no opset": ("opset", relu(opset=6)),
    "contrib operator": (
        "operator",
        graph("y = com.microsoft.Gelu(x)", "float[2] x", "float[2] y", more='"com.microsoft" : 1'),
    ),
    "operator in a branch": ("operator", branches("(float[2] u) { u = Swish(x) }")),
    "double output": ("interface", graph("y = Cast<to = 11>(x)", "float[2] x", "double[2] y")),
    "computed scale": (
        "scale",
        graph(DEQUANTIZED.replace("xs,", "s,") + " y = Neg(xd)", X + ", float s", "float[1,2] y", ONE),
    ),
    "half scale": (
        "scale",
        graph("xq = QuantizeLinear(x, ch, xz) y = DequantizeLinear(xq, ch, xz)", X, "float[1,2] y", HALF, opset=19),
    ),
    "computed zero point": (
        "zero-point",
        graph(DEQUANTIZED.replace("xz)", "z)") + " y = Neg(xd)", X + ", int8 z", "float[1,2] y", ONE),
    ),
    "fewer zero points": ("zero-point", quantized(scales=SCALES.replace("int8[3] wz = {0,0,0}", "int8 wz = {0}"))),
    "uint8": (
        "quantized-type",
        graph(
            DEQUANTIZED + " y = Reshape(xd, s)",
            X,
            "float[2,1] y",
            "float xs = {0.5}, uint8 xz = {0}, int64[2] s = {2,1}",
        ),
    ),
    "activation per channel": (
        "scale-axis",
        graph(
            DEQUANTIZED + " y = Reshape(xd, s)",
            X,
            "float[2,1] y",
            "float[2] xs = {1,1}, int8[2] xz = {0,0}, int64[2] s = {2,1}",
        ),
    ),
    "data out of the folder": ("external-data", external(8)),
    "unquantized activation": ("one-sided", quantized(QDQ.replace("MatMul(xd,", "MatMul(x,"))),
    "few inputs of a group": ("group-size", grouped_convolution(2, 4)),
    "no branch output": ("branches", branches("() { u = Neg(x) }")),
    "dynamic channels of a Conv": (
        "channels",
        graph(
            DEQUANTIZED + " wd = DequantizeLinear<axis = 0>(w, xs, xz) y = Conv(xd, wd)",
            "float[1,N,1,1] x",
            "float[1,2,1,1] y",
            ONE + ", int8[2,1,1,1] w = {1,2}",
        ),
    ),
}
"""Further ways in which a rule is broken."""
REFUSED_TOO["data out of the folder"][1].graph.initializer[0].external_data[0].value = "../model.onnx.data"


@pytest.fixture(autouse=True)
def weights(tmp_path):
    (tmp_path / "model.onnx.data").write_bytes(bytes(8))


def test_every_rule_has_its_graphs():
    assert set(CASES) == {rule.name for rule in find_dialect("trt85").rules}


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_lets_the_right_graph_pass(rule, tmp_path):
    report = judged(CASES[rule][0], "trt85", tmp_path)
    assert report.accepted, report.findings


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_refuses_the_wrong_graph(rule, tmp_path):
    assert rule in refused_by(CASES[rule][1], "trt85", tmp_path)


@pytest.mark.parametrize("case", REFUSED_TOO)
def test_a_rule_refuses_its_other_cases(case, tmp_path):
    rule, model = REFUSED_TOO[case]
    assert rule in refused_by(model, "trt85", tmp_path)


def test_a_scale_that_is_cast_from_a_constant_passes(tmp_path):
    assert judged(graph(SCALE_NODE, X, "float[1,2] y", HALF), "trt85", tmp_path).accepted


def test_where_broadcasts_before_ranks_are_compared(tmp_path):
    model = graph("y = Where(c, x, z)", "bool[3] c, float[2,3] x", "float[2,3] y", "float z = {0}")
    assert judged(model, "trt85", tmp_path).accepted


def test_a_convolution_without_groups_has_any_size(tmp_path):
    assert judged(grouped_convolution(3, 5, groups=1), "trt85", tmp_path).accepted


def test_a_finding_names_the_node_and_its_operator(tmp_path):
    finding = judged(CASES["trilu-rank"][1], "trt85", tmp_path).findings[0]
    assert (finding.node, finding.operator) == ("y", "Trilu")
    assert "has 4 dimensions" in finding.message
