"""Ranges of shapes."""

from __future__ import annotations

import pytest

from inference_pio.artifact.cache_rows import rounded_up
from inference_pio.artifact.manifest import GraphFacts, TensorFacts
from inference_pio.build.profiles import profiles
from inference_pio.errors import BadInputError


def block(*inputs: TensorFacts) -> GraphFacts:
    return GraphFacts("block", "any", "block-00.onnx", list(inputs), [], [0])


def test_both_profiles_of_a_block():
    graph = block(
        TensorFacts("hidden_states", "float32", [1, "S", 8]),
        TensorFacts("past_bias", "float32", ["S", "P"]),
        TensorFacts("past_key_values.0.key", "float32", [1, "P", 2, 4]),
    )
    prefill, decode = profiles(graph, 4096)
    assert prefill == {
        "hidden_states": ([1, 2, 8], [1, 128, 8], [1, 128, 8]),
        "past_bias": ([2, 256], [128, 1024], [128, 4096]),
        "past_key_values.0.key": ([1, 256, 2, 4], [1, 1024, 2, 4], [1, 4096, 2, 4]),
    }
    assert decode["past_bias"] == ([1, 256], [1, 1024], [1, 4096])


def test_an_unknown_free_dimension_is_refused():
    with pytest.raises(BadInputError, match="'x' of block-00.onnx has a free dimension 'Q'".replace(".", r"\.")):
        profiles(block(TensorFacts("x", "float32", ["Q"])), 256)


@pytest.mark.parametrize(("context", "rows"), [(1, 256), (256, 256), (257, 512)])
def test_rows_are_whole_buckets(context, rows):
    assert rounded_up(context) == rows
