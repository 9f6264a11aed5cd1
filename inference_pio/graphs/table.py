"""The token table of a target whose host looks rows up: the bytes of a tied head, or a file of its own."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.formats import FP16
from inference_pio.graphs.integers import IntegerRows
from inference_pio.graphs.narrow import Narrowed
from inference_pio.graphs.parts import Part
from inference_pio.graphs.rewrites.rewrite import LoweringContext
from inference_pio.graphs.rewrites.static_products import is_static
from inference_pio.graphs.weights import Job, Recipe, Rows, StoreRows, recipe_of, stored_rows

FILE = "embedding.data"


@dataclass(frozen=True)
class Table:
    """The values [V, C] and, for int8, scales [V] of the token table `tensor`; `own` holds them where no part does."""

    tensor: str
    values: ir.Value
    scales: ir.Value | None
    own: ir.Graph | None


def table_rows(decoder: ir.Model, context: LoweringContext) -> Rows:
    """The rows of the token table of a canonical decoder."""
    return stored_rows(decoder.graph.initializers[f"{context.spec.prefix}.embed_tokens.weight"])


def find_table(rows: Rows, parts: list[Part], context: LoweringContext) -> Table:
    """The table's place among `parts`: the weight of the head that was made of the same rows, or a graph of its own.

    Raises BadInputError for a format that it cannot have.
    """
    quantized = is_static(rows, context)
    dtype = ir.DataType.INT8 if quantized else ir.DataType.FLOAT
    job: Job = IntegerRows(rows) if quantized else StoreRows(rows)
    if context.format_of(rows.parts[0][0]) == FP16:
        dtype, job = ir.DataType.FLOAT16, Narrowed(job, ir.DataType.FLOAT16, main=True, label=rows.label)
    for part in parts:
        found = [v for v in part.model.graph.initializers.values() if (r := recipe_of(v)) is not None and r.job == job]
        if part.role == "head" and found:
            return _table(rows, found, None)
    b = GraphBuilder(ir.Graph([], [], nodes=[], name="table"))
    made = [b.lazy("values", dtype, rows.shape, Recipe(job, sources=rows.parts))]
    if quantized:
        made.append(b.lazy("scales", ir.DataType.FLOAT, (rows.count,), Recipe(job, side=True)))
    return _table(rows, made, b.graph)


def _table(rows: Rows, values: list[ir.Value], own: ir.Graph | None) -> Table:
    sides = {bool(recipe and recipe.side): value for value in values if (recipe := recipe_of(value))}
    return Table(rows.parts[0][0], sides[False], sides.get(True), own)
