"""Linear layers of the static w8a8 format between QuantizeLinear and DequantizeLinear: explicit quantization.

Both inputs of the product are int8 with zero point 0: the activation by one calibrated step, which products that read
the same value share, the weight [K, N] with a scale per output channel. TensorRT 8.5 takes an int8 initializer only in
front of a DequantizeLinear, and wants explicit zero points. Input channels that calibration keeps exact have codes
of zero in the weight, and are multiplied in float32 beside that.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inference_pio.errors import BadInputError
from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.calibrated import CalibratedLinear
from inference_pio.graphs.formats import FP16, FP32, W8A8_STATIC
from inference_pio.graphs.integers import IntegerColumns, IntegerRows, calibrated_codes
from inference_pio.graphs.rewrites.integer_kernels import static_scale, with_rest
from inference_pio.graphs.rewrites.rewrite import LinearMatch, LoweringContext, NoMatchError, match_linear, replace
from inference_pio.graphs.source import tensor_of
from inference_pio.graphs.weights import Recipe, Rows, stored_rows


def pattern(node: ir.Node) -> LinearMatch | None:
    """A canonical linear layer."""
    return match_linear(node)


def check(match: LinearMatch, context: LoweringContext) -> None:
    if not is_static(stored_rows(match.weight), context):
        raise NoMatchError("its product is one of floats")


def rewrite(graph: ir.Graph, match: LinearMatch, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    rows = stored_rows(match.weight)
    found = context.calibrated_linears(rows)
    with b.before(match.nodes[0]), b.scope(str(match.nodes[0].name)):
        x = rounded(b, match.x, step_of(context, rows, found))
        y = b.op("MatMul", [x, _weight(b, match, rows, found)], name="product")
        y = with_rest(b, match, y, found)
    replace(match.output, y)
    for node in reversed(match.nodes):
        graph.remove(node, safe=True)


def is_static(rows: Rows, context: LoweringContext) -> bool:
    """Whether a weight is int8 with a static input, or else of floats.

    Raises BadInputError for any other format, and for float16 where nothing computes in it.
    """
    chosen = context.format_of(tensor_of(rows))
    known = (W8A8_STATIC, FP32) if context.compute == ir.DataType.FLOAT else (W8A8_STATIC, FP16, FP32)
    if chosen not in known:
        names = " or ".join(str(each) for each in known)
        raise BadInputError(f"'{rows.label}' is to be {chosen}, which this target has not: use {names}")
    return chosen == W8A8_STATIC


def rounded(b: GraphBuilder, x: ir.Value, step: float) -> ir.Value:
    """`x` rounded to int8 by `step` and back; made once however many products read it."""
    made: dict[float, ir.Value] = x.meta.setdefault("rounded", {})
    if step not in made:
        scale, zero = b.const(step, np.float32), b.const(0, np.int8)
        codes = b.op("QuantizeLinear", [x, scale, zero])
        made[step] = b.op("DequantizeLinear", [codes, scale, zero], name="rounded")
    return made[step]


def dequantized_kernel(b: GraphBuilder, name: str, rows: Rows) -> ir.Value:
    """The rows [N, K], rounded to nearest, as the weight of a 1x1 convolution: codes int8 [N, K, 1, 1], scales [N]."""
    job = IntegerRows(rows)
    shape = (rows.count, rows.tail[0], 1, 1)
    data = b.lazy(f"{name}.kernel", ir.DataType.INT8, shape, Recipe(job, sources=rows.parts))
    scales = b.lazy(f"{name}.scales", ir.DataType.FLOAT, (rows.count,), Recipe(job, side=True))
    return _dequantized(b, name, data, scales, axis=0)


def _dequantized(b: GraphBuilder, name: str, data: ir.Value, scales: ir.Value, axis: int) -> ir.Value:
    """The weight `name` as float32 of its codes and scales along `axis`.

    It has zero points of its own: where ONNX Runtime makes unsigned weights of signed ones, shared ones would clash.
    """
    count = int(scales.shape[0])
    zeros = ir.tensor(np.zeros(count, np.int8), name=f"{name}.zeros")
    value = ir.Value(name=zeros.name, shape=scales.shape, type=ir.TensorType(ir.DataType.INT8), const_value=zeros)
    b.graph.register_initializer(value)
    return b.op("DequantizeLinear", [data, scales, value], {"axis": axis}, name="weight")


def step_of(context: LoweringContext, rows: Rows, found: list[CalibratedLinear]) -> float:
    """The step of the activation; weights of a vision tower and by head have one although they are rounded plainly."""
    if found or context.calibrated is None:
        return static_scale(found, rows)
    step = context.calibrated.activation_scale(rows.parts[0][0])
    if step is None:
        raise BadInputError(f"{rows.label} has no calibrated activation scale: calibrate this checkpoint again")
    return step


def _weight(b: GraphBuilder, match: LinearMatch, rows: Rows, found: list[CalibratedLinear]) -> ir.Value:
    """Codes int8 [K, N] with scales float32 [N], dequantized."""
    job = IntegerColumns(rows, calibrated_codes(rows, found))
    name = str(match.weight.name)
    shape = (rows.tail[0], rows.count)
    data = b.lazy(f"{name}.columns", ir.DataType.INT8, shape, Recipe(job, sources=rows.parts))
    scales = b.lazy(f"{name}.scales", ir.DataType.FLOAT, (rows.count,), Recipe(job, side=True))
    return _dequantized(b, name, data, scales, axis=1)
