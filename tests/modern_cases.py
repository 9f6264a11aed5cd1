"""Small graphs of which every rule of TensorRT 10.15 lets one pass and refuses another."""

from __future__ import annotations

import numpy as np
import onnx
from lint_cases import QDQ, SCALES, graph

X, Y = "float[1,2] x", "float[1,3] y"
QKV, OUT = "float[1,2,3,4] q, float[1,1,3,4] k, float[1,1,3,4] v", "float[1,2,3,4] y"
HALF_QKV = QKV.replace("float", "float16")
HALF_OUT = OUT.replace("float", "float16")
CACHE = "float[1,1,8,4] c, float[1,1,2,4] u, int64[1] i"


def modern(body: str, inputs: str, outputs: str, constants: str = "", opset: int = 24):
    return graph(body, inputs, outputs, constants, opset, 12)


def scatter(axis: int):
    return modern(f"y = TensorScatter<axis = {axis}>(c, u, i)", CACHE, "float[1,1,8,4] y")


def rotary(dtype: str):
    inputs = f"float[1,2,3,4] x, float[8,2] cos, float[8,2] sin, {dtype}[1,3] p"
    return modern("y = RotaryEmbedding(x, cos, sin, p)", inputs, OUT)


def scatter_nd(reduction: str):
    body = f'y = ScatterND<reduction = "{reduction}">(x, i, u)'
    return modern(body, "float[4] x, int64[1,1] i, float[1] u", "float[4] y")


def normed(names: str, outputs: str):
    return modern(f"{names} = LayerNormalization(x, s)", "float[2,4] x, float[4] s", outputs)


def selected(flag: int):
    return modern(f"y, i = TopK<sorted = {flag}>(x, k)", "float[9] x", "float[2] y, int64[2] i", "int64[1] k = {2}")


def half_scales(model):
    for tensor in [held for held in model.graph.initializer if held.data_type == onnx.TensorProto.FLOAT]:
        values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model


def missing_weight():
    model = modern("y = Add(x, w)", X, "float[1,2] y", "float[2] w = {1, 2}")
    model.graph.initializer[0].data_location = 1
    model.graph.initializer[0].external_data.add(key="location", value="nowhere")
    return model


def grouped_convolution(inputs: int, outputs: int):
    body = "xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z) wd = DequantizeLinear(w, s, z) "
    values = ",".join(["1"] * 2 * inputs * outputs)
    constants = f"float s = {{0.5}}, int8 z = {{0}}, int8[{2 * outputs},{inputs},1,1] w = {{{values}}}"
    channels = f"float[1,{2 * inputs},1,1] x", f"float[1,{2 * outputs},1,1] y"
    return modern(body + "y = Conv<group = 2>(xd, wd)", *channels, constants)


CASES = {
    "opset": (modern("y = Neg(x)", X, "float[1,2] y"), modern("y = Neg(x)", X, "float[1,2] y", opset=25)),
    "wiring": (modern("y = Neg(x)", X, "float[1,2] y"), modern("y = Neg(z)", X, "float[1,2] y")),
    "operator": (
        modern("y = RMSNormalization(x, s)", X + ", float[2] s", "float[1,2] y"),
        modern("y = Swish(x)", X, "float[1,2] y"),
    ),
    "operand-type": (
        modern("y = Softmax(x)", "bfloat16[1,2] x", "bfloat16[1,2] y"),
        modern("y = Neg(x)", "bool[2] x", "bool[2] y"),
    ),
    "value-type": (
        modern("y = Cast<to = 16>(x)", X, "bfloat16[1,2] y"),
        modern("y = Cast<to = 5>(x)", X, "int16[1,2] y"),
    ),
    "uint8": (
        modern("y = Cast<to = 1>(x)", "uint8[2] x", "float[2] y"),
        modern("z = Cast<to = 2>(x) y = Cast<to = 1>(z)", X, "float[1,2] y"),
    ),
    "same-type": (
        modern("y = Attention(q, k, v, m)", HALF_QKV + ", float16[1,1,3,3] m", HALF_OUT),
        modern("y = Attention(q, k, v, m)", HALF_QKV + ", float[1,1,3,3] m", HALF_OUT),
    ),
    "scale-type": (
        half_scales(modern(QDQ, "float16[1,2] x", "float16[1,3] y", SCALES)),
        modern(QDQ, "float16[1,2] x", Y, SCALES),
    ),
    "constant-input": (
        modern("y = ReduceMean(x, a)", X, "float[1,1] y", "int64[1] a = {1}"),
        modern("y = ReduceMean(x, a)", X + ", int64[1] a", "float[1,1] y"),
    ),
    "attention": (
        modern("y = Attention(q, k, v)", QKV, OUT),
        modern("y, a, b = Attention(q, k, v)", QKV, OUT + ", float[1,1,3,4] a, float[1,1,3,4] b"),
    ),
    "tensor-scatter": (scatter(-2), scatter(1)),
    "rotary-positions": (rotary("int64"), rotary("int32")),
    "layer-norm": (normed("y", "float[2,4] y"), normed("y, m", "float[2,4] y, float[2,1] m")),
    "scatter-reduction": (scatter_nd("none"), scatter_nd("add")),
    "top-k": (selected(1), selected(0)),
    "external-data": (modern("y = Neg(x)", X, "float[1,2] y"), missing_weight()),
    "zero-point": (
        modern(QDQ, X, Y, SCALES),
        modern(QDQ, X, Y, SCALES.replace("xz = {0}", "xz = {1}")),
    ),
    "activation-scale": (
        modern(QDQ, X, Y, SCALES),
        modern(QDQ, X, Y, SCALES.replace("float xs = {0.5}, int8 xz = {0}", "float[2] xs = {1,1}, int8[2] xz = {0,0}")),
    ),
    "group-size": (grouped_convolution(4, 4), grouped_convolution(4, 2)),
    "one-sided": (modern(QDQ, X, Y, SCALES), modern(QDQ.replace("MatMul(xd,", "MatMul(x,"), X, Y, SCALES)),
}
REFUSED_TOO = {
    "a norm whose weight has another type": (
        "same-type",
        modern("y = RMSNormalization(x, s)", "float16[1,2] x, float[2] s", "float[1,2] y"),
    ),
    "a sum of two types behind a cast": (
        "same-type",
        modern("z = Cast<to = 10>(x) y = Add(x, z)", X, "float[1,2] y"),
    ),
    "a cache of another type than its rows": (
        "same-type",
        modern("y = TensorScatter(c, u, i)", CACHE.replace("float[1,1,2", "float16[1,1,2"), "float[1,1,8,4] y"),
    ),
    "a scale of zero": ("scale-type", modern(QDQ, X, Y, SCALES.replace("xs = {0.5}", "xs = {0}"))),
    "a type that the scale has not": (
        "scale-type",
        modern(
            "y = DequantizeLinear<output_dtype = 10>(w, s, z)",
            "int8[2] w",
            "float16[2] y",
            "float s = {1}, int8 z = {0}",
        ),
    ),
    "a cache inside Attention": (
        "attention",
        modern("y = Attention(q, k, v, , k, v)", QKV, OUT),
    ),
    "flat queries": (
        "attention",
        modern(
            "y = Attention<q_num_heads = 2, kv_num_heads = 1>(q, k, v)",
            "float[1,3,8] q, float[1,3,4] k, float[1,3,4] v",
            "float[1,3,8] y",
        ),
    ),
    "a soft cap": ("attention", modern("y = Attention<softcap = 5.0>(q, k, v)", QKV, OUT)),
    "a flat cache": (
        "tensor-scatter",
        modern("y = TensorScatter(c, u, i)", "float[1,8,4] c, float[1,2,4] u, int64[1] i", "float[1,8,4] y"),
    ),
    "a cache that grows": (
        "tensor-scatter",
        modern("y = TensorScatter(c, u, i)", "float[1,1,P,4] c, float[1,1,2,4] u, int64[1] i", "float[1,1,P,4] y"),
    ),
    "a cache that is made": (
        "tensor-scatter",
        modern("n = Neg(c)\n y = TensorScatter(n, u, i)", CACHE, "float[1,1,8,4] y"),
    ),
    "a cache that is not given back": (
        "tensor-scatter",
        modern("n = TensorScatter(c, u, i)\n y = Neg(n)", CACHE, "float[1,1,8,4] y"),
    ),
    "very many values": (
        "top-k",
        modern("y, i = TopK(x, k)", "float[9999] x", "float[3840] y, int64[3840] i", "int64[1] k = {3840}"),
    ),
}
