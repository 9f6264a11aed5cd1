"""The forms of attention over latents: for one new token, for one behind a long context, and for many.

For one token all heads are rows of one matrix. Behind a long context the cached rows go through the processor once: a
Scan, which hands out parts of a buffer without copying, does scores, softmax and mix of a part while it is in the
caches. What parts found is put together by the logarithm of the sum of each softmax (Dao et al. 2023, Flash-Decoding):
with the largest score m and its weight w in a part, that is m - log w.

For many tokens products are bound by arithmetic, so their mix leaves out the rotated part of the rows, which nobody
reads, and heads take turns in groups, because the scores of all of them need memory in proportion to the context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.builder import MICROSOFT, GraphBuilder

GROUP = 5
"""Heads of a group at most; time is level from 2 heads to 10 (measured with 20 heads and chunks of 128)."""


@dataclass(frozen=True)
class Values:
    """What a form reads, all of the outer graph.

    `queries` [B, H, S, W], `rows` [B, 1, T, W] and `bias` [B, 1, S, T] are float32; `total` int64 [1] is T.
    `rows_shape` and `bias_shape`, int64 [4], divide rows and bias of one token into parts of two pieces, [P, N, part,
    W] and [P, N, 1, part]. `constants` are int64 vectors by their values.
    """

    queries: ir.Value
    rows: ir.Value
    bias: ir.Value
    rows_shape: ir.Value
    bias_shape: ir.Value
    total: ir.Value
    constants: Mapping[tuple[int, ...], ir.Value]


@dataclass(frozen=True)
class Sizes:
    """Sizes of one attention: its name, heads, channels of a row, and how many of them are the latent."""

    name: str
    heads: int
    width: int
    rank: int
    scale: float

    @property
    def group(self) -> int:
        """Heads that take their turn together when there are many tokens."""
        return max(count for count in range(1, GROUP + 1) if self.heads % count == 0)

    @property
    def constants(self) -> list[tuple[int, ...]]:
        """The constants that the forms need."""
        heads, width = self.heads, self.width
        one = [(1, heads, width), (heads, 1, width), (-1, heads, width), (-1, heads, 1)]
        many = [(0, heads // self.group, -1, width), (0, self.group, -1), (0, -1), (0, heads, -1, self.rank)]
        return [*one, *many, (0,), (1,), (2,), (3,), (self.rank,)]


def one_token(sizes: Sizes, values: Values) -> ir.Graph:
    """Latents that the heads of one token attended to, float32 [1, H, 1, L], as the branch of an If."""
    b, const = GraphBuilder(), values.constants
    with b.scope(f"{sizes.name}/one"):
        q_1HW = b.op("Reshape", [values.queries, const[1, sizes.heads, sizes.width]], name="query")
        rows_1TW = b.op("Squeeze", [values.rows, const[(1,)]], name="rows")
        bias_11T = b.op("Squeeze", [values.bias, const[(1,)]], name="bias")
        y_1HW, _, _ = _attention(b, q_1HW, rows_1TW, bias_11T, sizes.scale)
        return _finished(b, [_latent(b, b.op("Reshape", [y_1HW, const[sizes.heads, 1, sizes.width]]), sizes, const)])


def one_token_in_parts(sizes: Sizes, values: Values) -> ir.Graph:
    """The same, with the rows in parts."""
    b, const = GraphBuilder(), values.constants
    with b.scope(f"{sizes.name}/parts"):
        q_1HW = b.op("Reshape", [values.queries, const[1, sizes.heads, sizes.width]], name="query")
        rows_PNTW = b.op("Reshape", [values.rows, values.rows_shape], name="rows")
        bias_PN1T = b.op("Reshape", [values.bias, values.bias_shape], name="bias")
        inputs, attributes = [rows_PNTW, bias_PN1T], {"body": _part(sizes, q_1HW), "num_scan_inputs": 2}
        y_PNHW, scores_PNHT, weights_PNHT = b.ops("Scan", inputs, attributes, 3, name="parts")
        largest_PNH1 = b.op("ReduceMax", [scores_PNHT, const[(3,)]], name="largest")
        weight_PNH1 = b.op("ReduceMax", [weights_PNHT, const[(3,)]], name="weight")
        sums_PNH1 = b.op("Sub", [largest_PNH1, b.op("Log", [weight_PNH1])], name="log_sums")
        sums_H1N = b.op("Transpose", [b.op("Reshape", [sums_PNH1, const[-1, sizes.heads, 1]])], {"perm": [1, 2, 0]})
        shares_H1N = b.op("Softmax", [sums_H1N], {"axis": -1}, name="shares")
        y_NHW = b.op("Reshape", [y_PNHW, const[-1, sizes.heads, sizes.width]])
        y_H1W = b.op("MatMul", [shares_H1N, b.op("Transpose", [y_NHW], {"perm": [1, 0, 2]})], name="sum")
        return _finished(b, [_latent(b, y_H1W, sizes, const)])


def _part(sizes: Sizes, q_1HW: ir.Value) -> ir.Graph:
    """What happens to a part: its mix [N, H, W], its scores and its weights [N, H, T]."""
    b = GraphBuilder()
    with b.scope(f"{sizes.name}/part"):
        rows_NTW = b.input(f"{sizes.name}/part/rows", ir.DataType.FLOAT, ["pieces", "part", sizes.width])
        bias_N1T = b.input(f"{sizes.name}/part/bias", ir.DataType.FLOAT, ["pieces", 1, "part"])
        return _finished(b, _attention(b, q_1HW, rows_NTW, bias_N1T, sizes.scale))


def _attention(
    b: GraphBuilder, q_1HW: ir.Value, rows_NTW: ir.Value, bias_N1T: ir.Value, scale: float
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Mix [N, H, W], scores and weights [N, H, T]."""
    scores_NHT = b.op("Add", [_scores(b, q_1HW, rows_NTW, scale), bias_N1T], name="seen")
    weights_NHT = b.op("Softmax", [scores_NHT], {"axis": -1})
    return b.op("MatMul", [weights_NHT, rows_NTW], name="mix"), scores_NHT, weights_NHT


def _latent(b: GraphBuilder, y_H1W: ir.Value, sizes: Sizes, const: Mapping[tuple[int, ...], ir.Value]) -> ir.Value:
    """The latent's channels [1, H, 1, L] of a mix."""
    y_H1L = b.op("Slice", [y_H1W, const[(0,)], const[(sizes.rank,)], const[(2,)]], name="latent")
    return b.op("Unsqueeze", [y_H1L, const[(0,)]], name="output")


def many_tokens(sizes: Sizes, values: Values) -> ir.Graph:
    """The same for any number of tokens and a batch: float32 [B, H, S, L]."""
    b, const = GraphBuilder(), values.constants
    with b.scope(f"{sizes.name}/many"):
        groups = sizes.heads // sizes.group
        q_BGRW = b.op("Reshape", [values.queries, const[0, groups, -1, sizes.width]], name="query")
        rows_BTW = b.op("Squeeze", [values.rows, const[(1,)]], name="rows")
        latents_BTL = b.op("Slice", [rows_BTW, const[(0,)], const[(sizes.rank,)], const[(2,)]], name="latents")
        by_head = b.op("Concat", [const[0, sizes.group, -1], values.total], {"axis": 0}, name="by_head")
        as_rows = b.op("Concat", [const[0, -1], values.total], {"axis": 0}, name="as_rows")
        body = _group(sizes, values, rows_BTW, latents_BTL, by_head, as_rows)
        axes = {"scan_input_axes": [1], "scan_output_axes": [1], "num_scan_inputs": 1}
        y_BGRL = b.op("Scan", [q_BGRW], {"body": body, **axes}, name="groups")
        return _finished(b, [b.op("Reshape", [y_BGRL, const[0, sizes.heads, -1, sizes.rank]], name="output")])


def _group(
    sizes: Sizes, values: Values, rows_BTW: ir.Value, latents_BTL: ir.Value, by_head: ir.Value, as_rows: ir.Value
) -> ir.Graph:
    """The mix of a group of heads, whose queries are rows of one matrix: [B, R, L]."""
    b = GraphBuilder()
    with b.scope(f"{sizes.name}/group"):
        q_BRW = b.input(f"{sizes.name}/group/query", ir.DataType.FLOAT, ["batch", "rows", sizes.width])
        scores_BGST = b.op("Reshape", [_scores(b, q_BRW, rows_BTW, sizes.scale), by_head])
        scores_BGST = b.op("Add", [scores_BGST, values.bias], name="seen")
        weights_BGST = b.op("Softmax", [scores_BGST], {"axis": -1})
        weights_BRT = b.op("Reshape", [weights_BGST, as_rows])
        return _finished(b, [b.op("MatMul", [weights_BRT, latents_BTL], name="mix")])


def _scores(b: GraphBuilder, q: ir.Value, rows: ir.Value, scale: float) -> ir.Value:
    return b.op("FusedMatMul", [q, rows], {"transB": 1, "alpha": scale}, domain=MICROSOFT, name="scores")


def choice(name: str, condition: ir.Value, then: ir.Graph, otherwise: ir.Graph) -> ir.Graph:
    """One of two branches, as a branch."""
    b = GraphBuilder()
    with b.scope(name):
        branches = {"then_branch": then, "else_branch": otherwise}
        return _finished(b, [b.op("If", [condition], branches, name="output")])


def _finished(b: GraphBuilder, outputs: Sequence[ir.Value]) -> ir.Graph:
    """The graph with its float32 outputs, named as the scope that they were made in."""
    for value in outputs:
        value.type = ir.TensorType(ir.DataType.FLOAT)
        b.graph.outputs.append(value)
    b.graph.name = str(outputs[0].name).rsplit("/", 1)[0]
    return b.graph
