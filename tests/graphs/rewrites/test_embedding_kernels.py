"""The token table takes its format; other lookups stay."""

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from inference_pio.graphs.formats import FP16, FP32, WeightFormat
from inference_pio.graphs.rewrites import embedding_kernels, linear_kernels
from inference_pio.graphs.weights import ComputeRows, Recipe, recipe_of

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import Handmade, apply, canonical, count, first, logits, some_ids, spec_with

INT64 = ir.DataType.INT64


def test_floats_stay_as_they_are():
    model = canonical()
    report = apply(model, embedding_kernels, formats=FP32)
    assert report.matches == 0
    assert "stays float32" in report.refused[0]


def test_half_precision_widens_rows_and_not_the_table(tmp_path):
    model = canonical(spec_with(tied_embeddings=False))
    assert apply(model, embedding_kernels, formats=FP16).matches == 1
    assert first(model, "Gather").inputs[0].dtype == ir.DataType.FLOAT16
    spec = spec_with(tied_embeddings=False)
    difference = logits(model, tmp_path, some_ids(), spec) - logits(canonical(spec), tmp_path, some_ids(), spec)
    assert np.abs(difference).max() < 0.02


@pytest.mark.parametrize("bits", [8, 4])
def test_blocks(bits):
    spec = spec_with(hidden_size=48, tied_embeddings=False)
    model = canonical(spec)
    assert apply(model, embedding_kernels, spec=spec, formats=WeightFormat(bits)).matches == 1
    node = first(model, "GatherBlockQuantized")
    assert (node.attributes["block_size"].value, node.attributes["bits"].value) == (16, bits)
    assert [list(node.inputs[i].shape) for i in (0, 2)] == [[96, 48 * bits // 8], [96, 3]]


@pytest.mark.parametrize("chosen", [WeightFormat(8), WeightFormat(4), WeightFormat(8, 16)], ids=str)
def test_a_tied_table_and_head_are_made_by_one_job(chosen):
    model = canonical()
    report = apply(model, linear_kernels, embedding_kernels, formats=chosen)
    assert report.matches == 1
    gather = first(model, "GatherBlockQuantized")
    head = next(n for n in model.graph if n.op_type == "MatMulNBits" and n.attributes["N"].value == 96)
    assert recipe_of(gather.inputs[0]).job == recipe_of(head.inputs[1]).job
    assert gather.inputs[2] is head.inputs[2]


def test_a_table_that_no_block_divides_stays_and_the_head_does_not():
    spec = spec_with(hidden_size=40)
    model = canonical(spec)
    report = apply(model, linear_kernels, embedding_kernels, spec=spec, formats=WeightFormat(8))
    assert report.matches == 0
    assert "no block size divides rows of 40 elements" in report.refused[0]
    assert count(model, "GatherBlockQuantized") == 0
    assert any(n.op_type == "MatMulNBits" and n.attributes["N"].value == 96 for n in model.graph)


def lookups(made):
    """A Gather over each kind of table that is not rows of a checkpoint."""
    ids = made.input("ids", "n", dtype=INT64)
    yield made.b.op("Gather", [made.b.const(np.ones((4, 32)), np.float32), ids], {"axis": 0})
    yield made.b.op("Gather", [made.input("table", 4, 32), ids], {"axis": 0})
    job = ComputeRows(4, (32,), lambda start, stop: np.ones((stop - start, 32), np.float32))
    yield made.b.op("Gather", [made.b.lazy("angles", ir.DataType.FLOAT, (4, 32), Recipe(job)), ids], {"axis": 0})


def test_tables_that_are_no_rows_of_a_checkpoint_stay():
    made = Handmade()
    for index, rows in enumerate(lookups(made)):
        made.output(rows, f"y{index}", "n", 32)
    report = apply(made.model, embedding_kernels, formats=WeightFormat(8))
    assert (report.matches, report.refused) == (0, [])
    assert count(made.model, "Gather") == 3


def test_columns_and_single_numbers_are_no_rows():
    made = Handmade()
    ids = made.input("ids", "n", dtype=INT64)
    made.output(made.b.op("Gather", [made.weight("table", 4, 32), ids], {"axis": 1}), "columns", 4, "n")
    made.output(made.b.op("Gather", [made.weight("numbers", 32), ids], {"axis": 0}), "numbers_out", "n")
    report = apply(made.model, embedding_kernels, formats=WeightFormat(8))
    assert (report.matches, report.refused) == (0, [])


def test_scales_of_one_job_are_stored_once():
    model = canonical()
    apply(model, linear_kernels, embedding_kernels, formats=WeightFormat(8))
    scales = [value for value in model.graph.initializers.values() if recipe_of(value) and recipe_of(value).side]
    assert len(scales) == 2 * 7 + 1
