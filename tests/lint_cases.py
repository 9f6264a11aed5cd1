"""Small graphs in ONNX's text form, and what a linter says of them."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import parser

from inference_pio.graphs.lint import find_dialect
from inference_pio.graphs.lint.linter import LintReport, lint

QDQ = """
    xq = QuantizeLinear(x, xs, xz)
    xd = DequantizeLinear(xq, xs, xz)
    wd = DequantizeLinear<axis = 1>(w, ws, wz)
    y = MatMul(xd, wd)
"""
"""A product with both inputs quantized, over SCALES."""
SCALES = (
    "float xs = {0.5}, int8 xz = {0}, int8[2,3] w = {1,2,3,4,5,6}, float[3] ws = {0.5,0.5,0.5}, int8[3] wz = {0,0,0}"
)


def graph(
    body: str, inputs: str, outputs: str, constants: str = "", opset: int = 17, ir: int = 8, more: str = ""
) -> onnx.ModelProto:
    """A model of one graph from its nodes, inputs, outputs and initializers, with `more` opset imports."""
    held = f"<{constants}>" if constants else ""
    imports = f'"" : {opset}' + (f", {more}" if more else "")
    return parser.parse_model(
        f"<ir_version: {ir}, opset_import: [{imports}]> g ({inputs}) => ({outputs}) {held} {{ {body} }}"
    )


def judged(model: onnx.ModelProto, dialect: str, folder: Path) -> LintReport:
    """What the linter says of a model, from a file in `folder`."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return lint(path, find_dialect(dialect))


def refused_by(model: onnx.ModelProto, dialect: str, folder: Path) -> set[str]:
    """The names of the rules that object."""
    return {finding.rule for finding in judged(model, dialect, folder).findings}
