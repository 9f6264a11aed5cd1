"""Attention over cached and new rows that never copies the cache.

A cache is token-major, [1, P, G, D]: new rows are one contiguous piece, and any prefix of the buffer can be bound. The
scores of cached and of new rows are two products that share one softmax, so nothing is appended inside the graph, which
gives the new rows alone. The R query heads that share a key head are rows of one product (R before tokens).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder

PAST_BIAS, NEW_BIAS = "past_bias", "new_bias"


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
            value = _input(b, f"{name}{suffix}", ["sequence_length", columns])
            if repeats > 1:
                value = b.op("Concat", [value] * repeats, {"axis": 0}, name=f"{name}{suffix}_rows")
            found.append(value)
        b.graph.meta[key] = tuple(found)
    made: tuple[ir.Value, ir.Value] = b.graph.meta[key]
    return made


def attend(b: GraphBuilder, q_1GMD: ir.Value, parts: Sequence[Rows]) -> ir.Value:
    """What queries [1, G, M, D], already scaled, see in all `parts` -> [1, G, M, D]."""
    scores = []
    for part in parts:
        key_1GDT = b.op("Transpose", [part.key], {"perm": [0, 2, 3, 1]}, name="keys")
        scores.append(b.op("Add", [b.op("MatMul", [q_1GMD, key_1GDT]), part.bias], name="scores"))
    tops = [b.op("ReduceMax", [s], {"axes": [-1], "keepdims": 1}) for s in scores]
    top = b.op("Max", tops, name="top")
    shares = [b.op("Exp", [b.op("Sub", [s, top])], name="shares") for s in scores]
    sums = [b.op("ReduceSum", [s, b.const([-1])], {"keepdims": 1}) for s in shares]
    seen = []
    for share, part in zip(shares, parts, strict=True):
        value_1GTD = b.op("Transpose", [part.value], {"perm": [0, 2, 1, 3]}, name="values")
        seen.append(b.op("MatMul", [share, value_1GTD], name="seen"))
    total, weight = seen[0], sums[0]
    for more, also in zip(seen[1:], sums[1:], strict=True):
        total, weight = b.op("Add", [total, more], name="seen_in_all"), b.op("Add", [weight, also], name="sum")
    return b.op("Div", [total, weight], name="attended")


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


def _input(b: GraphBuilder, name: str, shape: list[int | str]) -> ir.Value:
    found = next((value for value in b.graph.inputs if value.name == name), None)
    return found or b.input(name, ir.DataType.FLOAT, shape)
