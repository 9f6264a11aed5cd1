"""Attention over latents on one shared buffer: what it turns into, what it gives, and what it leaves alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import apply, count, first, set_attribute, some_ids
from graph_cases import canonical as grouped
from latent_cases import SPEC, Steps, canonical, lowered, spec_with

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites import latent_attention
from inference_pio.graphs.rewrites.group_query_attention import mask_window

IDS = some_ids(1, 40)
SPECS = {
    "plain": SPEC,
    "halves": spec_with({"interleaved": False}),
    "direct_queries": spec_with({"q_rank": None}),
    "bias": spec_with(qkv_bias=True, output_bias=True),
    "one_head": spec_with(heads=1),
    "seven_heads": spec_with(heads=7),
    "ten_heads": spec_with(heads=10),
}


def test_every_layer_matches():
    model = canonical()
    assert apply(model, latent_attention, spec=SPEC).matches == 2
    assert count(model, "TensorScatter") == 2
    assert (count(model, "Attention"), count(model, "If")) == (0, 2)


def test_positions_and_masks_are_made_once_of_the_count_of_tokens():
    model = lowered()
    assert count(model, "Range") == 2
    assert [value.name for value in model.graph.inputs][:2] == ["input_ids", "attention_mask"]
    assert "position_ids" not in {value.name for value in model.graph.inputs}
    assert [value.name for value in model.graph.outputs] == ["logits", "present.0.latent", "present.1.latent"]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("capacity", [None, 40, 64], ids=["exact", "full", "more"])
def test_the_result_is_the_same(spec, capacity, tmp_path):
    expected = Steps(canonical(spec), tmp_path).step(IDS)
    steps, done = Steps(lowered(spec), tmp_path, capacity=capacity), 0
    for size in (17, 1, 1, 20, 1):
        found = steps.step(IDS[:, done : done + size])
        assert np.abs(found - expected[:, done : done + size]).max() < 1e-5
        done += size


@pytest.mark.parametrize(("part", "fewest"), [(4, 1), (5, 2), (12, 3)])
def test_a_token_reads_the_rows_in_parts(part, fewest, tmp_path, monkeypatch):
    """With rows behind those in use, with as many as divide, and with a number that does not."""
    monkeypatch.setattr(latent_attention, "PART_ROWS", part)
    monkeypatch.setattr(latent_attention, "FEWEST_PARTS", fewest)
    expected = Steps(canonical(), tmp_path).step(IDS)
    for capacity in (40, 48, None):
        steps = Steps(lowered(), tmp_path, capacity=capacity)
        found = np.concatenate([steps.step(IDS[:, n : n + 1]) for n in range(40)], axis=1)
        assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("rows", "shape"), [(14, None), (16, [2, 2, 4]), (23, None), (24, [3, 2, 4]), (26, None), (30, [3, 2, 5])]
)
def test_parts_have_two_pieces_of_one_size(rows, shape, tmp_path, monkeypatch):
    monkeypatch.setattr(latent_attention, "PART_ROWS", 8)
    model = lowered()
    for name, dtype in (("divides", ir.DataType.BOOL), ("rows_shape", ir.DataType.INT64)):
        value = next(node for node in model.graph if node.name == f"latent/{name}").outputs[0]
        value.type = ir.TensorType(dtype)
        model.graph.outputs.append(value)
    session = Steps(model, tmp_path).session
    feeds = {"input_ids": IDS[:, :1], "attention_mask": np.ones((1, rows), np.int64)}
    feeds |= {f"past_key_values.{n}.latent": np.zeros((1, 1, rows, SPEC.head_dim), np.float32) for n in range(2)}
    divides, found = session.run(["latent/divides", "latent/rows_shape"], feeds)
    assert (list(found) if divides else None) == (shape and [*shape, SPEC.head_dim])


def test_only_one_token_of_one_sequence_behind_many_rows_reads_in_parts(tmp_path, monkeypatch):
    """Shown by a sum of parts that is broken, in a model of one layer, whose cache knows nothing of it."""
    monkeypatch.setattr(latent_attention, "PART_ROWS", 8)
    spec = spec_with(windows=(None,))
    expected, model = Steps(canonical(spec), tmp_path).step(IDS), lowered(spec)
    set_attribute(next(n for n in model.graph.all_nodes() if str(n.name).endswith("parts/shares")), "axis", 0)
    steps = Steps(model, tmp_path)
    found = [steps.step(IDS[:, :24]), *(steps.step(IDS[:, n : n + 1]) for n in range(24, 40))]
    wrong = np.abs(np.concatenate(found, axis=1) - expected).max(axis=(0, 2)) > 1e-3
    assert (np.flatnonzero(wrong) + 1).tolist() == [30, 32, 40]


def test_borders_of_chunks_change_rounding_alone(tmp_path):
    """The bound that docs/export.md states."""
    results = []
    for sizes in ([40], [1] * 40, [13, 27], [8] * 5):
        steps, done, pieces = Steps(lowered(), tmp_path), 0, []
        for size in sizes:
            pieces.append(steps.step(IDS[:, done : done + size]))
            done += size
        results.append(np.concatenate(pieces, axis=1))
    assert max(np.abs(result - results[0]).max() for result in results) < 1e-5


def test_the_same_chunks_give_the_same_bits(tmp_path):
    """Whatever stands in the rows that are not in use."""
    results = []
    for unused in (0.0, 1e4, -3.0):
        steps = Steps(lowered(), tmp_path, capacity=48, unused=unused)
        results.append(np.concatenate([steps.step(IDS[:, :24]), steps.step(IDS[:, 24:])], axis=1))
    assert all((result == results[0]).all() for result in results)


def test_a_batch_of_different_lengths(tmp_path):
    ids, lengths = some_ids(3, 12), np.array([12, 5, 1])
    steps = Steps(lowered(), tmp_path, rows=3, capacity=20)
    found = [steps.step(ids, (np.arange(12) < lengths[:, None]).astype(np.int64))]
    new = some_ids(3, 4)
    for n in range(4):
        found.append(steps.step(new[:, n : n + 1], (np.arange(13 + n) < lengths[:, None] + n + 1).astype(np.int64)))
    for row, length in enumerate(lengths):
        tokens = np.concatenate([ids[row, :length], new[row]])[None]
        expected = Steps(canonical(), tmp_path).step(tokens)[0]
        both = np.concatenate([found[0][row, :length], *(step[row] for step in found[1:])])
        assert np.abs(both - expected).max() < 1e-5


def test_the_checker_accepts_it(tmp_path):
    ir.save(lowered(), tmp_path / "model.onnx")
    onnx.checker.check_model(str(tmp_path / "model.onnx"))


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [("is_causal", 1, "the causal mask is not explicit"), ("softcap", 30.0, "soft-capped scores")],
)
def test_other_attention_is_left_alone(attribute, value, words):
    model = canonical(spec_with(windows=(None,)))
    set_attribute(first(model, "Attention"), attribute, value)
    report = apply(model, latent_attention, spec=SPEC)
    assert (report.matches, count(model, "Attention")) == (0, 1)
    assert words in report.refused[0]


def test_a_window_is_left_alone():
    spec = spec_with(windows=(8,))
    model = canonical(spec)
    assert mask_window(first(model, "Attention").inputs[3]) == 8
    assert "a sliding window" in apply(model, latent_attention, spec=spec).refused[0]


def test_a_cache_that_grows_elsewhere_is_left_alone():
    model = canonical(spec_with(windows=(None,)))
    append = first(model, "Attention").inputs[1].producer()
    set_attribute(append, "axis", 1)
    assert "does not grow along its tokens" in apply(model, latent_attention, spec=SPEC).refused[0]


def test_a_cache_that_is_not_given_back_is_left_alone():
    model = canonical(spec_with(windows=(None,)))
    model.graph.outputs.pop()
    assert "not given back" in apply(model, latent_attention, spec=SPEC).refused[0]


@pytest.mark.parametrize(("start", "stop", "axis"), [(1, 16, 3), (0, 16, 2), (0, -8, 3)])
def test_a_result_of_which_other_channels_are_read_is_left_alone(start, stop, axis):
    model = canonical(spec_with(windows=(None,)))
    latent = next(node for node in model.graph if node.name.endswith("/latent"))
    for index, number in enumerate((start, stop, axis), 1):
        latent.replace_input_with(index, GraphBuilder(model.graph).const([number]))
    assert "more than the first channels" in apply(model, latent_attention, spec=SPEC).refused[0]


def test_a_result_that_is_read_whole_is_left_alone():
    model = canonical(spec_with(windows=(None,)))
    whole = first(model, "Attention").outputs[0]
    whole.shape, whole.type = ir.Shape(["batch", 3, "new", 24]), ir.TensorType(ir.DataType.FLOAT)
    model.graph.outputs.append(whole)
    assert "more than the first channels" in apply(model, latent_attention, spec=SPEC).refused[0]


def test_values_of_their_own_are_no_latents():
    model = canonical(spec_with(windows=(None,)))
    attention = first(model, "Attention")
    attention.replace_input_with(2, attention.inputs[1].producer().inputs[0])
    report = apply(model, latent_attention, spec=SPEC)
    assert (report.matches, report.refused) == (0, [])


def test_grouped_attention_is_no_match():
    model = grouped()
    report = apply(model, latent_attention)
    assert (report.matches, report.refused) == (0, [])
