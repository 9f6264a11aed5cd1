"""PagedAttention over latents: the operator's documented meaning, written out in standard operators, gives the logits.

No CPU kernel runs it, so each node is replaced by what the operator's documentation says that it does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir

sys.path.insert(0, str(Path(__file__).parents[2]))
from cuda_cases import logits_of_chunks, session_of
from graph_cases import apply, first, logits, set_attribute, some_ids
from latent_cases import MLA, SPEC, canonical

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites import paged_latents
from inference_pio.graphs.rewrites.rewrite import attribute, replace

BLOCK = paged_latents.BLOCK_TOKENS


def written_out(model: ir.Model) -> None:
    """PagedAttention as documented, for one sequence whose blocks follow each other."""
    for node in [node for node in model.graph if node.op_type == "PagedAttention"]:
        b = GraphBuilder(model.graph)
        q_TN, k_TW, _, cache, _, ends, past, table = node.inputs
        heads, width = attribute(node, "num_heads"), SPEC.head_dim
        with b.before(node), b.scope(f"{node.name}/written_out"):
            chosen = b.op("Gather", [cache, b.op("Squeeze", [table, b.const([0])])], {"axis": 0})
            rows_CW = b.op("Reshape", [chosen, b.const([-1, width])])
            wide = {"to": int(ir.DataType.INT64)}
            start_1 = b.op("Cast", [past], wide)
            count = b.op("Squeeze", [b.op("Slice", [b.op("Cast", [ends], wide), b.const([1]), b.const([2])])])
            offset_T = b.op("Range", [b.const(0), count, b.const(1)])
            position_T = b.op("Add", [start_1, offset_T])
            at_T1 = b.op("Unsqueeze", [position_T, b.const([1])])
            rows_CW = b.op("ScatterND", [rows_CW, at_T1, k_TW])
            q_HTW = b.op("Transpose", [b.op("Reshape", [q_TN, b.const([-1, heads, width])])], {"perm": [1, 0, 2]})
            scores = b.op("MatMul", [q_HTW, b.op("Transpose", [rows_CW], {"perm": [1, 0]})])
            scores = b.op("Mul", [scores, b.const(attribute(node, "scale"), np.float32)])
            capacity = b.op("Squeeze", [b.op("Shape", [rows_CW], {"end": 1})])
            key_C = b.op("Range", [b.const(0), capacity, b.const(1)])
            seen = b.op("LessOrEqual", [key_C, at_T1])
            scores = b.op("Where", [seen, scores, b.const(-1e30, np.float32)])
            values_CL = b.op("Slice", [rows_CW, b.const([0]), b.const([attribute(node, "v_head_size")]), b.const([1])])
            y_HTL = b.op("MatMul", [b.op("Softmax", [scores], {"axis": -1}), values_CL])
            y_TN = b.op("Reshape", [b.op("Transpose", [y_HTL], {"perm": [1, 0, 2]}), b.const([0, -1])])
            cache_out = b.op("Reshape", [rows_CW, b.const([-1, BLOCK, 1, width])])
        for old, new in zip(node.outputs, (y_TN, cache_out), strict=True):
            replace(old, new)
        model.graph.remove(node, safe=True)


def test_the_documented_operator_gives_the_logits(tmp_path):
    ids = some_ids(1, 9)
    empty = {f"past_key_values.{n}.latent": np.zeros((1, 1, 0, SPEC.head_dim), np.float32) for n in range(2)}
    expected = logits(canonical(), tmp_path, ids, SPEC, **empty)
    model = canonical()
    assert apply(model, paged_latents, spec=SPEC, required=True).matches == 2
    node = first(model, "PagedAttention")
    assert attribute(node, "kv_cache_layout") == "LATENT" and attribute(node, "v_head_size") == MLA.kv_rank
    assert list(model.graph.inputs[-1].shape)[1:] == [BLOCK, 1, SPEC.head_dim]
    written_out(model)
    session = session_of(model, tmp_path)
    held = {f"past_key_values.{n}.latent": np.zeros((2, BLOCK, 1, SPEC.head_dim), np.float32) for n in range(2)}
    assert np.abs(logits_of_chunks(session, ids, held, (5, 1, 3)) - expected).max() < 1e-5


def test_scores_that_are_capped_stay():
    model = canonical()
    set_attribute(first(model, "Attention"), "softcap", 30.0)
    report = apply(model, paged_latents, spec=SPEC)
    assert report.matches == 1 and "soft-capped" in report.refused[0]
