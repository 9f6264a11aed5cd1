"""Attention over cached and new rows that never copies the cache.

A cache is token-major, [1, P, G, D]: new rows are one contiguous piece, and any prefix of the buffer can be bound. The
scores of cached and of new rows are two products that share one softmax, so nothing is appended inside the graph, which
gives the new rows alone. The R query heads that share a key head are rows of one product (R before tokens).
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder

PAST_BIAS, NEW_BIAS = "past_bias", "new_bias"
END = 2**31 - 1
"""Where a Slice stops that goes to the end."""


@dataclass(frozen=True)
class Rows:
    """Keys and values [1, rows, G, D] that are attended to together, and the bias on their scores [R * S, rows]."""

    key: ir.Value
    value: ir.Value
    bias: ir.Value


def biases(b: GraphBuilder, window: int | None, repeats: int) -> tuple[ir.Value, ir.Value]:
    """Biases of cached and of new rows for `repeats` heads below each other: [R * S, P] and [R * S, S].

    Adds the inputs `past_bias` [S, P] and `new_bias` [S, S] for this window to the graph.
    """
    key = ("attention_biases", window, repeats)
    if key not in b.graph.meta:
        suffix = "" if window is None else f".{window}"
        found = []
        for name, columns in ((PAST_BIAS, "past_length"), (NEW_BIAS, "sequence_length")):
            value = b.shared_input(f"{name}{suffix}", ir.DataType.FLOAT, ["sequence_length", columns])
            if repeats > 1:
                value = b.op("Concat", [value] * repeats, {"axis": 0}, name=f"{name}{suffix}_rows")
            found.append(value)
        b.graph.meta[key] = tuple(found)
    made: tuple[ir.Value, ir.Value] = b.graph.meta[key]
    return made


def attend(b: GraphBuilder, q_1GMD: ir.Value, past: Rows, new: Rows) -> ir.Value:
    """What queries [1, G, M, D], already scaled, see in the cached and in the new rows -> [1, G, M, D].

    One Softmax over both, cut behind the cached rows: sums of exponentials that are merged by hand are refused by the
    compiler of newer versions (seen in TensorRT-RTX 1.7).
    """
    scores = []
    for rows in (past, new):
        key_1GDT = b.op("Transpose", [rows.key], {"perm": [0, 2, 3, 1]}, name="keys")
        scores.append(b.op("Add", [b.op("MatMul", [q_1GMD, key_1GDT]), rows.bias], name="scores"))
    shares = b.op("Softmax", [b.op("Concat", scores, {"axis": -1})], {"axis": -1}, name="shares")
    first, last, axis, cut = b.const([0]), b.const([END]), b.const([3]), _columns(b, past.bias)
    seen = []
    for rows, (start, stop) in ((past, (first, cut)), (new, (cut, last))):
        share = b.op("Slice", [shares, start, stop, axis])
        value_1GTD = b.op("Transpose", [rows.value], {"perm": [0, 2, 1, 3]}, name="values")
        seen.append(b.op("MatMul", [share, value_1GTD], name="seen"))
    return b.op("Add", seen, name="attended")


def _columns(b: GraphBuilder, bias_MT: ir.Value) -> ir.Value:
    """The number of columns of a bias, int64 [1]; made once."""
    if "columns" not in bias_MT.meta:
        bias_MT.meta["columns"] = b.op("Gather", [b.op("Shape", [bias_MT]), b.const([1])], name="columns")
    made: ir.Value = bias_MT.meta["columns"]
    return made


def make_past(past: ir.Value, heads: int, size: int) -> None:
    """Make a cache input token-major: float32 [1, P, heads, size]."""
    past.shape = ir.Shape([1, "past_length", heads, size])


def make_present(present: ir.Value, rows: ir.Value, heads: int, size: int) -> None:
    """Let a cache output be the new `rows`, float32 [1, S, heads, size]."""
    graph = present.graph
    assert graph is not None
    name = present.name
    present.name = f"{name}/replaced"
    rows.name, rows.type = name, ir.TensorType(ir.DataType.FLOAT)
    rows.shape = ir.Shape([1, "sequence_length", heads, size])
    graph.outputs[list(graph.outputs).index(present)] = rows
