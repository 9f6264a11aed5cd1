"""Token table and head as int8 rows: one copy when tied, the same numbers as rounding them by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import FakeCheckpoint, apply, arrays_of, canonical, context, count, logits, some_ids, spec_with

from inference_pio.graphs.architectures import qwen3
from inference_pio.graphs.formats import W8A8, WeightFormat
from inference_pio.graphs.rewrites import integer_edges, linear_kernels
from inference_pio.graphs.rewrites.rewrite import apply_rewrite, prune
from inference_pio.graphs.rounding import round_channels
from inference_pio.graphs.source import WeightSource


def edges(spec):
    return lambda name: W8A8 if name in spec.edge_tensors else WeightFormat(32)


@pytest.mark.parametrize("tied", [True, False])
def test_the_table_is_stored_once(tied):
    spec = spec_with(tied_embeddings=tied)
    model = canonical(spec)
    assert apply(model, integer_edges, spec=spec, formats=edges(spec)).matches == 2
    codes = {
        name: v for name, v in model.graph.initializers.items() if v.dtype == ir.DataType.INT8 and v.shape.rank() == 2
    }
    assert len(codes) == (1 if tied else 2)
    assert [count(model, name) for name in ("MatMulInteger", "Gather")] == [1, 2]


def test_same_as_rounding_by_hand(tmp_path):
    spec, ids = spec_with(tied_embeddings=False), some_ids()
    arrays = arrays_of(spec)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        codes, scales = round_channels(arrays[name], clip=False)
        arrays[name] = codes.astype(np.float32) * scales[:, None]
    by_hand = qwen3.build(spec, WeightSource(FakeCheckpoint(arrays)))  # type: ignore[arg-type]
    expected = logits(by_hand, tmp_path, ids, spec)
    model = canonical(spec)
    apply(model, integer_edges, linear_kernels, spec=spec, formats=edges(spec))
    found = logits(model, tmp_path, ids, spec)
    # What is left is the rounding of the head's input: half a step of 1/127 in each of 32 channels.
    assert 0 < np.abs(found - expected).max() < 0.1


def test_other_weights_and_formats_stay():
    model, spec = canonical(), spec_with()
    report = apply_rewrite(integer_edges, model.graph, context(spec, WeightFormat(8)), required=False)
    prune(model.graph)
    assert report.matches == 0
    assert any("neither the token table nor the head" in reason for reason in report.refused)
    assert any("not one of integer products" in reason for reason in report.refused)
