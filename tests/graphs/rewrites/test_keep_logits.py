"""The head computes as many positions as asked, and only the head is touched."""

import sys
from pathlib import Path

import numpy as np
import pytest

from inference_pio.graphs.rewrites import keep_logits

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import Handmade, apply, canonical, logits, some_ids, spec_with


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("keep", "kept"), [(None, 9), (0, 9), (1, 1), (4, 4), (9, 9), (50, 9)])
def test_as_many_positions_as_asked(tmp_path, tied, keep, kept):
    spec = spec_with(tied_embeddings=tied)
    ids = some_ids()
    expected = logits(canonical(spec), tmp_path, ids, spec)
    model = canonical(spec)
    assert apply(model, keep_logits, spec=spec, required=True).matches == 1
    more = {} if keep is None else {"num_logits_to_keep": np.array([keep])}
    found = logits(model, tmp_path, ids, spec, **more)
    assert found.shape == (2, kept, 96)
    assert np.abs(found - expected[:, -kept:]).max() < 1e-5


def test_the_input_is_optional_and_the_output_says_so():
    model = canonical()
    apply(model, keep_logits)
    keep = model.graph.inputs[-1]
    assert (keep.name, list(keep.shape), keep.is_initializer()) == ("num_logits_to_keep", [1], True)
    assert [str(dim) for dim in model.graph.outputs[0].shape] == ["batch", "sequence_length", "96"]


def test_it_is_done_once():
    model = canonical()
    apply(model, keep_logits)
    report = apply(model, keep_logits)
    assert report.matches == 0
    assert "input num_logits_to_keep already" in report.refused[0]


@pytest.mark.parametrize(
    ("name", "shape"), [("hidden", (1, 4, 6)), ("present.0.key", (1, 4, 6))], ids=["hidden", "cache"]
)
def test_other_outputs_of_linear_layers_are_left_alone(name, shape):
    made = Handmade()
    made.output(made.linear(made.input("x", 1, 4, 8), made.weight("w", 6, 8)), name, *shape)
    assert apply(made.model, keep_logits).matches == 0


def test_logits_that_something_follows_are_left_alone():
    made = Handmade()
    capped = made.b.op("Tanh", [made.linear(made.input("x", 1, 4, 8), made.weight("w", 6, 8))])
    made.output(capped, "logits", 1, 4, 6)
    assert apply(made.model, keep_logits).matches == 0
