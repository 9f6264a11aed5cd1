"""Tensors are handed out once each, in their shape, and copies of the tied table must be copies."""

import sys
from pathlib import Path

import numpy as np
import pytest

from inference_pio.errors import BadInputError
from inference_pio.graphs.architectures import qwen3
from inference_pio.graphs.source import WeightSource, tensor_of

sys.path.insert(0, str(Path(__file__).parents[1]))
from graph_cases import SPEC, FakeCheckpoint, arrays_of, canonical, spec_with


def build(arrays, spec=SPEC):
    return qwen3.build(spec, WeightSource(FakeCheckpoint(arrays)))


def test_a_missing_tensor_is_named():
    arrays = arrays_of(SPEC)
    del arrays["model.layers.1.self_attn.k_norm.weight"]
    with pytest.raises(BadInputError, match=r"lacks 'model.layers.1.self_attn.k_norm.weight'"):
        build(arrays)


def test_a_tensor_of_no_use_is_named():
    with pytest.raises(BadInputError, match=r"does not use: 'model.layers.0.self_attn.q_proj.bias'"):
        build(arrays_of(SPEC) | {"model.layers.0.self_attn.q_proj.bias": np.zeros(64, np.float32)})


def test_a_wrong_shape_is_named():
    arrays = arrays_of(SPEC)
    arrays["model.norm.weight"] = np.ones(31, np.float32)
    with pytest.raises(BadInputError, match=r"'model.norm.weight' .* has the shape \[31\], but .* implies \[32\]"):
        build(arrays)


def test_buffers_that_are_recomputed_may_be_there():
    build(arrays_of(SPEC) | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(8, np.float32)})


def test_a_stored_head_may_repeat_the_tied_table():
    arrays = arrays_of(SPEC)
    build(arrays | {"lm_head.weight": arrays["model.embed_tokens.weight"].copy()})


@pytest.mark.parametrize("row", [0, 50, 95])
def test_a_stored_head_that_differs_from_the_tied_table_is_refused(row):
    head = arrays_of(SPEC)["model.embed_tokens.weight"].copy()
    head[row, 7] += 1e-3
    with pytest.raises(BadInputError, match=r"ties 'lm_head.weight' to .* different values"):
        build(arrays_of(SPEC) | {"lm_head.weight": head})


def test_a_stored_head_of_another_shape_is_refused():
    with pytest.raises(BadInputError, match=r"'lm_head.weight'"):
        build(arrays_of(SPEC) | {"lm_head.weight": np.zeros((97, 32), np.float32)})


def test_an_untied_model_needs_its_head():
    spec = spec_with(tied_embeddings=False)
    with pytest.raises(BadInputError, match=r"lacks 'lm_head.weight'"):
        build(arrays_of(SPEC), spec)
    assert "lm_head.weight" in canonical(spec).graph.initializers


def test_rows_by_head_are_taken_apart():
    weight = np.arange(2 * 5 * 3, dtype=np.float32).reshape(10, 3)
    source = WeightSource(FakeCheckpoint({"w": weight}))
    found = source.heads("w", 2, {"key": 3, "value": 2}, 3)
    source.close()
    heads = weight.reshape(2, 5, 3)
    assert (found["key"].read(0, 2) == heads[:, :3]).all()
    assert (found["value"].read(1, 2) == heads[1:, 3:]).all()
    assert (found["key"].shape, found["value"].shape) == ((2, 3, 3), (2, 2, 3))
    assert [rows.parts for rows in found.values()] == [(("w[key]", 2),), (("w[value]", 2),)]
    assert {tensor_of(rows) for rows in found.values()} == {"w"}


def test_parts_of_one_size_are_not_taken_for_each_other():
    """The exporter stores equal jobs once."""
    found = WeightSource(FakeCheckpoint({"w": np.ones((8, 3), np.float32)})).heads("w", 2, {"key": 2, "value": 2}, 3)
    assert found["key"] != found["value"]


def test_a_tensor_by_head_must_have_its_shape():
    with pytest.raises(BadInputError, match=r"has the shape \[9, 3\], but .* implies \[10, 3\]"):
        WeightSource(FakeCheckpoint({"w": np.ones((9, 3), np.float32)})).heads("w", 2, {"key": 3, "value": 2}, 3)
