"""The few best logits of the last position become outputs, so that choosing a token needs no copy of the vocabulary.

Outputs: `candidate_ids` int64 and `candidate_logits` float32 [B, 1, K], the largest logits, best first;
`candidate_masses` float32 [B, 1, N], the sum over the vocabulary of exp((logit - largest) / t) for each t of the
optional input `candidate_temperatures` [N] (default 1); `seen_logits` float32 [B, 1, M], the logits of the optional
input `seen_ids` int64 [M] (default: token 0), for penalties on tokens of a request.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from inference_pio.graphs.builder import Dim, GraphBuilder
from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError, match_linear

COUNT = 128
"""Candidates; more than the usual top_k, and than most nuclei have."""


@dataclass(frozen=True)
class Match:
    """The value that is the graph output `logits`."""

    logits: ir.Value


def pattern(node: ir.Node) -> Match | None:
    """The linear layer whose result is the graph output `logits`."""
    head = match_linear(node)
    found = head is not None and head.output.is_graph_output() and head.output.name == "logits"
    return Match(head.output) if head is not None and found else None


def check(match: Match, context: LoweringContext) -> None:
    node = match.logits.producer()
    if node is not None and node.graph is not None and any(v.name == "candidate_ids" for v in node.graph.outputs):
        raise NoMatchError("the graph has candidates already")


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    temperatures_N = _optional(graph, "candidate_temperatures", np.ones(1, np.float32), "temperatures")
    seen_M = _optional(graph, "seen_ids", np.zeros(1, np.int64), "seen")
    count = min(COUNT, context.spec.vocab_size)
    with b.scope("candidates"):
        ends = b.const([np.iinfo(np.int64).max])
        last_B1V = b.op("Slice", [match.logits, b.const([-1]), ends, b.const([1])], name="last")
        best = b.ops("TopK", [last_B1V, b.const([count])], {"axis": -1, "largest": 1, "sorted": 1}, 2)
        peak_B11 = b.op("Slice", [best[0], b.const([0]), b.const([1]), b.const([2])], name="peak")
        below_B1V1 = b.op("Unsqueeze", [b.op("Sub", [last_B1V, peak_B11]), b.const([3])])
        weights_B1VN = b.op("Exp", [b.op("Div", [below_B1V1, temperatures_N])], name="weights")
        masses_B1N = b.op("ReduceSum", [weights_B1VN, b.const([2])], {"keepdims": 0}, name="masses")
        seen_B1M = b.op("Gather", [last_B1V, seen_M], {"axis": 2}, name="seen")
    outputs: tuple[tuple[ir.Value, str, ir.DataType, Dim], ...] = (
        (best[1], "candidate_ids", ir.DataType.INT64, count),
        (best[0], "candidate_logits", ir.DataType.FLOAT, count),
        (masses_B1N, "candidate_masses", ir.DataType.FLOAT, "temperatures"),
        (seen_B1M, "seen_logits", ir.DataType.FLOAT, "seen"),
    )
    for value, name, dtype, size in outputs:
        b.output(value, name, dtype, ["batch", 1, size])


def _optional(graph: ir.Graph, name: str, default: np.ndarray, dim: str) -> ir.Value:
    """An input with a default."""
    value = ir.Value(
        name=name,
        shape=ir.Shape([dim]),
        type=ir.TensorType(ir.DataType.from_numpy(default.dtype)),
        const_value=ir.tensor(default, name=name),
    )
    graph.register_initializer(value)
    graph.inputs.append(value)
    return value
