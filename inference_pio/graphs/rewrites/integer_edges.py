"""The token table and the head of the w8a8 formats: int8 rows as the checkpoint has them, a scale for each.

The head multiplies from the left, `codes [V, C] @ x^T`, so that the table keeps its layout: nothing is transposed when
it is written, and a tied table is stored once. A lookup takes rows of codes and scales. For targets whose blockwise
kernels have no 8 bits; the head's input is rounded per token as in `integer_kernels`.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.integers import IntegerRows
from inference_pio.graphs.rewrites import embedding_kernels
from inference_pio.graphs.rewrites.integer_kernels import signed_codes
from inference_pio.graphs.rewrites.linear_kernels import stored_once
from inference_pio.graphs.rewrites.rewrite import LinearMatch, LoweringContext, NoMatchError, match_linear, replace
from inference_pio.graphs.weights import Recipe, Rows, stored_rows


@dataclass(frozen=True)
class Match:
    """The head, or a lookup in the token table."""

    head: LinearMatch | None
    lookup: embedding_kernels.Match | None
    rows: Rows


def pattern(node: ir.Node) -> Match | None:
    """A canonical linear layer, or `Gather(rows of the checkpoint, ids)`."""
    lookup = embedding_kernels.pattern(node)
    if lookup is not None:
        return Match(None, lookup, stored_rows(lookup.table))
    head = match_linear(node)
    return None if head is None else Match(head, None, stored_rows(head.weight))


def check(match: Match, context: LoweringContext) -> None:
    (name, _), *others = match.rows.parts
    if others or name not in context.spec.edge_tensors:
        raise NoMatchError("it is neither the token table nor the head")
    if not context.format_of(name).integer_product:
        raise NoMatchError("its format is not one of integer products")


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    nodes = match.head.nodes if match.head is not None else (match.lookup.gather,) if match.lookup is not None else ()
    name, job, rows = match.rows.parts[0][0], IntegerRows(match.rows), match.rows
    codes = stored_once(b, f"{name}.codes", ir.DataType.INT8, rows.shape, Recipe(job, sources=rows.parts))
    scales = stored_once(b, f"{name}.row_scales", ir.DataType.FLOAT, (rows.count, 1), Recipe(job, side=True))
    with b.before(nodes[0]), b.scope(str(nodes[0].name)):
        if match.head is not None:
            new, old = _product(b, match.head, codes, scales, rows), match.head.output
        else:
            new, old = _rows(b, nodes[0], codes, scales), nodes[0].outputs[0]
    replace(old, new)
    for node in reversed(nodes):
        graph.remove(node, safe=True)


def _product(b: GraphBuilder, head: LinearMatch, codes: ir.Value, scales: ir.Value, rows: Rows) -> ir.Value:
    x_BSK, step_BS1 = signed_codes(b, head.x, None)
    x_TK = b.op("Reshape", [x_BSK, b.const([-1, rows.tail[0]])], name="tokens")
    y_NT = b.op("MatMulInteger", [codes, b.op("Transpose", [x_TK], {"perm": [1, 0]})])
    scaled_NT = b.op("Mul", [b.op("Cast", [y_NT], {"to": int(ir.DataType.FLOAT)}), scales])
    y_TN = b.op("Transpose", [scaled_NT], {"perm": [1, 0]})
    leading_2 = b.op("Shape", [step_BS1], {"start": 0, "end": 2})
    shape_3 = b.op("Concat", [leading_2, b.const([rows.count])], {"axis": 0}, name="shape")
    y_BSN = b.op("Mul", [b.op("Reshape", [y_TN, shape_3]), step_BS1], name="product")
    return y_BSN if head.bias is None else b.op("Add", [y_BSN, head.bias], name="bias")


def _rows(b: GraphBuilder, gather: ir.Node, codes: ir.Value, scales: ir.Value) -> ir.Value:
    ids_BS = gather.inputs[1]
    found = [b.op("Gather", [table, ids_BS], {"axis": 0}) for table in (codes, scales)]
    return b.op("Mul", [b.op("Cast", [found[0]], {"to": int(ir.DataType.FLOAT)}), found[1]])
