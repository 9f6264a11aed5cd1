"""The token embedding takes its table's format: GatherBlockQuantized for blocks, Gather for floats.

A tied table is stored once: the lookup and the head name the same bytes in two shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.errors import BadInputError
from inference_pio.graphs.builder import MICROSOFT, GraphBuilder
from inference_pio.graphs.quantize import QuantizeRows
from inference_pio.graphs.rewrites.linear_kernels import half_table, shared_scales
from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError, attribute, replace
from inference_pio.graphs.weights import Recipe, holds_rows, stored_rows


@dataclass(frozen=True)
class Match:
    """A row lookup in a table that comes from the checkpoint."""

    gather: ir.Node
    table: ir.Value


def pattern(node: ir.Node) -> Match | None:
    """`Gather(rows of the checkpoint, ids)` along axis 0."""
    if (node.op_type, node.domain) != ("Gather", "") or attribute(node, "axis", 0) != 0:
        return None
    table = node.inputs[0]
    return Match(node, table) if table is not None and holds_rows(table, rank=2) else None


def check(match: Match, context: LoweringContext) -> None:
    rows = stored_rows(match.table)
    chosen = context.format_of(rows.parts[0][0])
    if chosen.quantized and not context.kernels.lookup_blocks:
        name = rows.parts[0][0]
        raise BadInputError(f"'{name}' would be {chosen}, which this target cannot look up: give it fp32 or w8a8")
    if chosen.bits == 32:
        raise NoMatchError("the table stays float32")
    if chosen.quantized and chosen.gather_block(rows.tail[0]) is None:
        raise NoMatchError(f"no block size divides rows of {rows.tail[0]} elements, so the table stays float32")


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    rows = stored_rows(match.table)
    chosen = context.format_of(rows.parts[0][0])
    ids_BS = match.gather.inputs[1]
    with b.before(match.gather), b.scope(str(match.gather.name)):
        if chosen.bits == 16:
            half_BSC = b.op("Gather", [half_table(b, rows), ids_BS], {"axis": 0})
            x_BSC = b.op("Cast", [half_BSC], {"to": int(ir.DataType.FLOAT)})
        else:
            block = chosen.gather_block(rows.tail[0])
            assert block is not None  # checked
            job = QuantizeRows(rows, chosen.bits, block)
            shape = (rows.count, rows.tail[0] * chosen.bits // 8)
            name = str(match.table.name)
            data = b.lazy(f"{name}.rows", ir.DataType.UINT8, shape, Recipe(job, sources=rows.parts))
            x_BSC = b.op(
                "GatherBlockQuantized",
                [data, ids_BS, shared_scales(b, f"{name}.scales", job)],
                {"bits": chosen.bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1},
                domain=MICROSOFT,
            )
    replace(match.gather.outputs[0], x_BSC)
    graph.remove(match.gather, safe=True)
