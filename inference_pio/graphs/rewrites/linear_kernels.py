"""Linear layers take the kernel of their weight's format: MatMulNBits for blocks, FusedMatMul for floats.

The weight keeps the checkpoint's [N, K] layout in every form, so nothing is ever transposed.
"""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.errors import BadInputError
from inference_pio.graphs.builder import MICROSOFT, GraphBuilder
from inference_pio.graphs.formats import Activations, WeightFormat
from inference_pio.graphs.integers import calibrated_codes
from inference_pio.graphs.quantize import QuantizeRows
from inference_pio.graphs.rewrites.rewrite import (
    Kernels,
    LinearMatch,
    LoweringContext,
    NoMatchError,
    attribute,
    match_linear,
    replace,
)
from inference_pio.graphs.weights import Recipe, Rows, StoreRows, stored_rows

INT8_ACTIVATIONS = 4
"""The accuracy_level of MatMulNBits and QMoE at which they round activations to int8 per row and block."""


def pattern(node: ir.Node) -> LinearMatch | None:
    """A canonical linear layer."""
    return match_linear(node)


def check(match: LinearMatch, context: LoweringContext) -> None:
    name = stored_rows(match.weight).parts[0][0]
    chosen = context.format_of(name)
    if chosen.integer_product:
        raise NoMatchError("integer products have a rewrite of their own")
    check_product(name, chosen, context.kernels)


def rewrite(graph: ir.Graph, match: LinearMatch, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    rows = stored_rows(match.weight)
    chosen = context.format_of(rows.parts[0][0])
    with b.before(match.nodes[0]), b.scope(str(match.nodes[0].name)):
        if chosen.quantized:
            y_BSN = _blocks(b, match, rows, chosen, context)
        else:
            y_BSN = _floats(b, match, rows, chosen)
    replace(match.output, y_BSN)
    for node in reversed(match.nodes):
        graph.remove(node, safe=True)


def _blocks(
    b: GraphBuilder, match: LinearMatch, rows: Rows, chosen: WeightFormat, context: LoweringContext
) -> ir.Value:
    """`MatMulNBits(x, data [N, blocks, bytes], scales [N, blocks])`."""
    codes = calibrated_codes(rows, context.calibrated_linears(rows))
    columns = rows.tail[0]
    shared = len(list(match.weight.uses())) > 1
    block = chosen.gather_block(columns) or chosen.block(columns) if shared else chosen.block(columns)
    job = QuantizeRows(rows, chosen.bits, block, codes)
    name, count = str(match.weight.name), job.blocks
    shape = (rows.count, count, block * chosen.bits // 8)
    data = stored_once(b, f"{name}.blocks", ir.DataType.UINT8, shape, Recipe(job, sources=rows.parts))
    scales = shared_scales(b, f"{name}.scales", job)
    attributes = {"K": columns, "N": rows.count, "bits": chosen.bits, "block_size": block, **accuracy(chosen)}
    inside = match.bias is not None and context.kernels.add_bias
    inputs = [match.x, data, scales] + ([None, None, match.bias] if inside else [])
    y_BSN = b.op("MatMulNBits", inputs, attributes, domain=MICROSOFT)
    return y_BSN if match.bias is None or inside else b.op("Add", [y_BSN, match.bias], name="bias")


def _floats(b: GraphBuilder, match: LinearMatch, rows: Rows, chosen: WeightFormat) -> ir.Value:
    """`FusedMatMul(x, weight, transB)`, the weight stored as float32 or as float16 and widened at load."""
    weight = match.weight
    if chosen.bits == 16:
        weight = b.op("Cast", [half_table(b, rows)], {"to": int(ir.DataType.FLOAT)})
    y_BSN = b.op("FusedMatMul", [match.x, weight], {"transB": 1}, domain=MICROSOFT)
    return y_BSN if match.bias is None else b.op("Add", [y_BSN, match.bias], name="bias")


def accuracy(chosen: WeightFormat) -> dict[str, int]:
    """The attribute that lets MatMulNBits or QMoE round activations; without it they are left as they are."""
    return {} if chosen.activations is Activations.EXACT else {"accuracy_level": INT8_ACTIVATIONS}


def rounds_activations(node: ir.Node) -> bool:
    """Whether a node is a product with blocks of integers, or a layer of experts, that rounds its activations."""
    level = attribute(node, "accuracy_level", 0)
    if (node.op_type, node.domain) == ("QMoE", MICROSOFT):  # 8 bits in blocks have no other kernel
        eight = attribute(node, "expert_weight_bits") == 8
        return bool(attribute(node, "block_size", 0)) and (eight or level == INT8_ACTIVATIONS)
    return (node.op_type, node.domain) == ("MatMulNBits", MICROSOFT) and level == INT8_ACTIVATIONS


def check_product(tensor: str, chosen: WeightFormat, kernels: Kernels) -> None:
    """Raise BadInputError for exact 8 bits where MatMulNBits would unpack the whole weight whenever it is called.

    Kernels for CPUs do so, and the old ones for GPUs have no 8 bits at all.
    """
    if chosen.quantized and chosen.activations is Activations.EXACT and chosen.bits not in kernels.exact_bits:
        raise BadInputError(
            f"tensor '{tensor}' cannot have the format {chosen}, whose only fast product is that of experts: give it "
            "int4-exact, fp16 or int8"
        )


def shared_scales(b: GraphBuilder, name: str, job: QuantizeRows) -> ir.Value:
    """The float32 [N, blocks] scales of `job`, stored once however many nodes read them."""
    return stored_once(b, name, ir.DataType.FLOAT, (job.rows.count, job.blocks), Recipe(job, side=True))


def half_table(b: GraphBuilder, rows: Rows) -> ir.Value:
    """The rows as a float16 initializer, stored once."""
    name = f"{rows.label}.float16" if len(rows.parts) == 1 else f"{rows.parts[0][0]}.packed.float16"
    recipe = Recipe(StoreRows(rows, ir.DataType.FLOAT16), sources=rows.parts)
    return stored_once(b, name, ir.DataType.FLOAT16, rows.shape, recipe)


def stored_once(b: GraphBuilder, name: str, dtype: ir.DataType, shape: tuple[int, ...], recipe: Recipe) -> ir.Value:
    """The initializer `name`, made by `recipe` when it is not there yet."""
    if name not in b.graph.initializers:
        b.lazy(name, dtype, shape, recipe)
    return b.graph.initializers[name]
