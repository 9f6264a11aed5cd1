"""Linear layers of the w8a8 formats become integer products: u8 (or s8, see below) activations by s8 weights.

Per token: a row is divided by its largest magnitude, rounded to -127..127 around zero point 128 and multiplied as
integers; the product is scaled by the weight's channel scale and by the row's magnitude. No operator sees two rows at
once, so a token's result depends on nothing but itself. Static: the same with one calibrated step for all rows.
Input channels that calibration keeps exact are taken out of the row and multiplied in float32.

Where no operator fuses the product with its scales (`Kernels.fused_products`), both sides are signed, the zero point is
0, MatMulInteger multiplies and the scales follow: the same numbers in three operators more.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inference_pio.errors import BadInputError
from inference_pio.graphs.builder import MICROSOFT, GraphBuilder
from inference_pio.graphs.calibrated import CalibratedLinear
from inference_pio.graphs.formats import Activations
from inference_pio.graphs.integers import IntegerColumns, calibrated_codes
from inference_pio.graphs.rewrites.rewrite import LinearMatch, LoweringContext, NoMatchError, match_linear, replace
from inference_pio.graphs.weights import ComputeRows, Recipe, Rows, stored_rows

ZERO_POINT, LARGEST = 128, 127


def pattern(node: ir.Node) -> LinearMatch | None:
    """A canonical linear layer."""
    return match_linear(node)


def check(match: LinearMatch, context: LoweringContext) -> None:
    if not context.format_of(stored_rows(match.weight).parts[0][0]).integer_product:
        raise NoMatchError("its format is not one of integer products")
    if len(list(match.weight.uses())) > 1:
        raise BadInputError(
            f"tensor '{stored_rows(match.weight).parts[0][0]}' is the token table too, which has no w8a8 form: "
            "give it another format"
        )


def rewrite(graph: ir.Graph, match: LinearMatch, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    rows = stored_rows(match.weight)
    static = context.format_of(rows.parts[0][0]).activations is Activations.STATIC
    found = context.calibrated_linears(rows)
    with b.before(match.nodes[0]), b.scope(str(match.nodes[0].name)):
        columns = found[0].exact_columns if found else ()
        x = b.op("Mul", [match.x, _mask(b, rows.tail[0], columns)], name="inner") if columns else match.x
        scale = static_scale(found, rows) if static else None
        product = _product if context.kernels.fused_products else _signed_product
        y = product(b, x, _weights(b, match, rows, found), scale)
        y = with_rest(b, match, y, found)
    replace(match.output, y)
    for node in reversed(match.nodes):
        graph.remove(node, safe=True)


def _weights(b: GraphBuilder, match: LinearMatch, rows: Rows, found: list[CalibratedLinear]) -> tuple[ir.Value, ...]:
    """Codes int8 [K, N] and scales float32 [N]."""
    job = IntegerColumns(rows, calibrated_codes(rows, found))
    name = str(match.weight.name)
    shape = (rows.tail[0], rows.count)
    data = b.lazy(f"{name}.columns", ir.DataType.INT8, shape, Recipe(job, sources=rows.parts))
    scales = b.lazy(f"{name}.scales", ir.DataType.FLOAT, (rows.count,), Recipe(job, side=True))
    return data, scales


def _product(b: GraphBuilder, x_BSK: ir.Value, weights: tuple[ir.Value, ...], static: float | None) -> ir.Value:
    zero = b.const(ZERO_POINT, np.uint8)
    if static is not None:
        step = b.const(static, np.float32)
        codes = b.op("QuantizeLinear", [x_BSK, step, zero])
        return b.op("MatMulIntegerToFloat", [codes, weights[0], step, weights[1], zero], domain=MICROSOFT)
    step = b.const(1 / LARGEST, np.float32)
    # A row of zeros is divided by zero; whatever code its NaN gets, the product with its magnitude is zero.
    largest_BS1 = b.op("ReduceMax", [b.op("Abs", [x_BSK]), b.const([-1])], {"keepdims": 1}, name="largest")
    codes = b.op("QuantizeLinear", [b.op("Div", [x_BSK, largest_BS1]), step, zero])
    y_BSN = b.op("MatMulIntegerToFloat", [codes, weights[0], step, weights[1], zero], domain=MICROSOFT)
    return b.op("Mul", [y_BSN, largest_BS1])


def _signed_product(b: GraphBuilder, x_BSK: ir.Value, weights: tuple[ir.Value, ...], static: float | None) -> ir.Value:
    codes, size = signed_codes(b, x_BSK, static)
    y_BSN = b.op("Cast", [b.op("MatMulInteger", [codes, weights[0]])], {"to": int(ir.DataType.FLOAT)})
    return b.op("Mul", [b.op("Mul", [y_BSN, weights[1]]), size])


def signed_codes(b: GraphBuilder, x_BSK: ir.Value, static: float | None) -> tuple[ir.Value, ir.Value]:
    """int8 codes of each row and the float32 step between them, [B, S, 1] or one number for all rows (`static`)."""
    zero = b.const(0, np.int8)
    if static is not None:
        step = b.const(static, np.float32)
        return b.op("QuantizeLinear", [x_BSK, step, zero]), step
    step = b.const(1 / LARGEST, np.float32)
    largest_BS1 = b.op("ReduceMax", [b.op("Abs", [x_BSK]), b.const([-1])], {"keepdims": 1}, name="largest")
    codes = b.op("QuantizeLinear", [b.op("Div", [x_BSK, largest_BS1]), step, zero])
    return codes, b.op("Mul", [largest_BS1, step], name="step")


def _mask(b: GraphBuilder, count: int, columns: tuple[int, ...]) -> ir.Value:
    """Ones [K], zero at `columns`."""
    mask = np.ones(count, np.float32)
    mask[list(columns)] = 0
    return b.const(mask, np.float32)


def with_rest(b: GraphBuilder, match: LinearMatch, y: ir.Value, found: list[CalibratedLinear]) -> ir.Value:
    """`y` of the rounded columns with that of the exact ones and the bias."""
    columns = found[0].exact_columns if found else ()
    if columns:
        y = b.op("Add", [y, _exact_product(b, match, found, columns)], name="outer")
    return y if match.bias is None else b.op("Add", [y, match.bias], name="bias")


def _exact_product(
    b: GraphBuilder, match: LinearMatch, found: list[CalibratedLinear], columns: tuple[int, ...]
) -> ir.Value:
    """The product of the exact columns with their float32 weights [E, N]."""
    weights_EN = np.concatenate([linear.exact for linear in found if linear.exact is not None]).T
    job = ComputeRows(len(columns), weights_EN.shape[1:], lambda start, stop: weights_EN[start:stop])
    name = f"{match.weight.name}.exact"
    weight = b.lazy(name, ir.DataType.FLOAT, weights_EN.shape, Recipe(job))
    x_BSE = b.op("Gather", [match.x, b.const(columns)], {"axis": -1}, name="exact_inputs")
    return b.op("MatMul", [x_BSE, weight], name="exact")


def static_scale(found: list[CalibratedLinear], rows: Rows) -> float:
    """The calibrated step of a static input; raises BadInputError without one."""
    scales = {linear.activation_scale for linear in found}
    if len(scales) != 1 or None in scales:
        raise BadInputError(f"{rows.label} has no calibrated activation scale: export with --calibration")
    scale = scales.pop()
    assert scale is not None
    return scale
