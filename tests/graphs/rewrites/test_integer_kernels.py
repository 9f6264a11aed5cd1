"""Linear layers of the w8a8 formats become integer products; other formats and the token table do not."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference_pio.errors import BadInputError
from inference_pio.graphs.calibrated import CalibratedLinear
from inference_pio.graphs.formats import W8A8, W8A8_STATIC, WeightFormat
from inference_pio.graphs.integers import IntegerColumns, stacked
from inference_pio.graphs.rewrites import integer_kernels, pack_gate_up, pack_qkv
from inference_pio.graphs.rewrites.rewrite import apply_rewrite, prune
from inference_pio.graphs.rounding import round_channels
from inference_pio.graphs.weights import recipe_of, stored_rows

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import arrays_of, canonical, context, count, logits, some_ids, spec_with

LAYERS_ONLY = {"model.embed_tokens.weight": WeightFormat(8), "lm_head.weight": WeightFormat(8)}


def formats(chosen):
    return lambda name: LAYERS_ONLY.get(name, chosen)


class Calibrated:
    """Plain rounding of arrays, as a calibration would hand it over, with exact columns and a static step."""

    def __init__(self, arrays, exact=(), step=None):
        self.arrays, self.exact, self.step = arrays, tuple(exact), step

    def linear(self, tensor):
        rows = self.arrays[tensor].copy()
        weights = rows[:, list(self.exact)]
        rows[:, list(self.exact)] = 0
        codes, scales = round_channels(rows, clip=False)
        return CalibratedLinear(lambda a, b: (codes[a:b], scales[a:b]), self.step, self.exact, weights)


def lowered(spec, chosen=W8A8, calibrated=None, packed=False):
    model = canonical(spec)
    how = replace(context(spec, formats(chosen)), calibrated=calibrated)
    for module in (*((pack_qkv, pack_gate_up) if packed else ()), integer_kernels):
        report = apply_rewrite(module, model.graph, how, False)
        prune(model.graph)
    return model, report.matches


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_every_linear_layer_but_the_head(tmp_path, bias, packed):
    spec = spec_with(qkv_bias=bias, output_bias=bias)
    model, matches = lowered(spec, packed=packed)
    assert matches == count(model, "MatMulIntegerToFloat") == 2 * (4 if packed else 7)
    assert count(model, "MatMul") == 1  # the tied head
    expected = logits(canonical(spec), tmp_path, some_ids(), spec)
    difference = np.abs(logits(model, tmp_path, some_ids(), spec) - expected).max()
    assert 0 < difference < 0.05 * np.abs(expected).max()


def test_other_formats_are_left_alone():
    for chosen in (WeightFormat(8), WeightFormat(4), WeightFormat(16), WeightFormat(32)):
        assert lowered(spec_with(), chosen)[1] == 0


def test_a_table_that_is_the_head_too_is_refused():
    model = canonical(spec_with())
    with pytest.raises(BadInputError, match="the token table too"):
        apply_rewrite(integer_kernels, model.graph, context(spec_with(), W8A8), False)


def test_exact_columns_are_not_rounded(tmp_path):
    spec = spec_with()
    arrays = arrays_of(spec)
    expected = logits(canonical(spec), tmp_path, some_ids(), spec)
    errors = []
    for exact in ((), range(0, 32, 2), range(32)):
        model, _ = lowered(spec, calibrated=Calibrated(arrays, exact), packed=True)
        errors.append(float(np.abs(logits(model, tmp_path, some_ids(), spec) - expected).max()))
    assert errors[2] < errors[1] < errors[0]


def test_a_static_step_is_the_same_for_all_tokens(tmp_path):
    spec = spec_with()
    model, _ = lowered(spec, W8A8_STATIC, Calibrated(arrays_of(spec), step=0.05))
    assert count(model, "ReduceMax") == count(model, "Div") == 0
    expected = logits(canonical(spec), tmp_path, some_ids(), spec)
    assert np.abs(logits(model, tmp_path, some_ids(), spec) - expected).max() < 0.3 * np.abs(expected).max()
    with pytest.raises(BadInputError, match="no calibrated activation scale"):
        lowered(spec, W8A8_STATIC)


def test_a_calibration_that_holds_only_some_of_a_packed_layer():
    class Holes(Calibrated):
        def linear(self, tensor):
            return None if "k_proj" in tensor else super().linear(tensor)

    with pytest.raises(BadInputError, match="calibrate this checkpoint again"):
        lowered(spec_with(), calibrated=Holes(arrays_of(spec_with())), packed=True)


def test_a_tokens_result_depends_on_no_other_token(tmp_path):
    """Bit for bit: alone, behind others, in front of others."""
    spec = spec_with(windows=(1, 1))  # every token sees itself alone, so only the products could mix rows
    model, _ = lowered(spec, packed=True)
    ids = np.arange(40, dtype=np.int64)[None]
    whole = logits(model, tmp_path, ids, spec)
    for start, stop in ((0, 1), (0, 7), (13, 30), (39, 40)):
        part = logits(model, tmp_path, ids[:, start:stop], spec)
        angle_free = np.array_equal(part, whole[:, start:stop])  # the rotation of one key cancels in softmax over one
        assert angle_free


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (700, 1500), (64, 16)])
def test_the_columns_hold_every_rounded_row(rows, columns):
    values = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
    source = canonical(spec_with())
    row = stored_rows(next(v for v in source.graph.initializers.values() if recipe_of(v) is not None))
    job = IntegerColumns(replace(row, parts=(("w", rows),), tail=(columns,), read_rows=lambda _, a, b: values[a:b]))
    pieces = [work() for work in job.pieces()]
    codes = np.frombuffer(b"".join(bytes(p.data) for p in pieces), np.int8).reshape(columns, rows)
    scales = np.frombuffer(b"".join(p.side for p in pieces), np.float32)
    expected = round_channels(values, clip=False)
    assert np.array_equal(codes.T, expected[0]) and np.array_equal(scales, expected[1])


def test_rows_are_rounded_to_their_own_range():
    codes, scales = round_channels(np.array([[1, -127, 0.4], [0, 0, 0], [1e-40, 0, 0]], np.float32), clip=False)
    assert codes.tolist() == [[1, -127, 0], [0, 0, 0], [0, 0, 0]]
    assert scales.tolist() == [1, 0, 0]


def test_readers_follow_each_other():
    parts = [np.arange(6, dtype=np.int8).reshape(3, 2), np.arange(6, 10, dtype=np.int8).reshape(2, 2)]
    readers = [(len(p), lambda a, b, p=p: (p[a:b], np.zeros(b - a, np.float32))) for p in parts]
    read = stacked(readers)
    assert read(0, 5)[0].tolist() == np.concatenate(parts).tolist()
    assert read(2, 4)[0].tolist() == [[4, 5], [6, 7]]
    assert len(read(3, 4)[1]) == 1
