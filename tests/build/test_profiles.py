"""Ranges of shapes."""

from __future__ import annotations

import pytest

from inference_pio.artifact.cache_rows import rounded_up
from inference_pio.artifact.manifest import GraphFacts, TensorFacts
from inference_pio.build.limits import Limits
from inference_pio.build.profiles import covered, profiles
from inference_pio.errors import BadInputError


def block(*inputs: TensorFacts) -> GraphFacts:
    return GraphFacts("block", "any", "block-00.onnx", list(inputs), [], [0])


def test_both_profiles_of_a_block():
    graph = block(
        TensorFacts("hidden_states", "float32", [1, "S", 8]),
        TensorFacts("past_bias", "float32", ["S", "P"]),
        TensorFacts("past_key_values.0.key", "float32", [1, "P", 2, 4]),
    )
    prefill, decode = profiles(graph, Limits(4096))
    assert prefill == {
        "hidden_states": [[1, 2, 8], [1, 128, 8], [1, 128, 8]],
        "past_bias": [[2, 256], [128, 1024], [128, 4096]],
        "past_key_values.0.key": [[1, 256, 2, 4], [1, 1024, 2, 4], [1, 4096, 2, 4]],
    }
    assert decode["past_bias"] == [[1, 256], [1, 1024], [1, 4096]]


def tower(patches: str = "patches") -> GraphFacts:
    inputs = [
        TensorFacts("pixel_values", "float32", ["images", "patches", 24]),
        TensorFacts("patch_positions", "int32", [patches, 2]),
    ]
    return GraphFacts("vision", "any", "vision.onnx", inputs, [], [])


@pytest.mark.parametrize(("tokens", "best", "most"), [(256, 1024, 1024), (2000, 1024, 8000), (9, 36, 36)])
def test_a_tower_takes_one_image_from_one_token_on(tokens, best, most):
    (found,) = profiles(tower(), Limits(256, tokens, 4))
    assert found == {
        "pixel_values": [[1, 4, 24], [1, best, 24], [1, most, 24]],
        "patch_positions": [[4, 2], [best, 2], [most, 2]],
    }


def test_a_free_dimension_that_no_image_has_is_refused():
    with pytest.raises(BadInputError, match=r"'patch_positions' of vision\.onnx has a free dimension 'Q'"):
        profiles(tower("Q"), Limits(256, 9, 4))


@pytest.mark.parametrize(("tokens", "enough"), [(9, True), (8, True), (10, False)])
def test_an_engine_is_enough_for_what_is_not_larger(tokens, enough):
    built, asked = (profiles(tower(), Limits(256, each, 4)) for each in (9, tokens))
    assert covered(asked, built) == enough
    assert not covered(asked, [*built, *built]) and not covered(asked, [{"pixel_values": built[0]["pixel_values"]}])


def test_an_engine_for_larger_images_only_is_not_enough():
    asked, built = ([{"x": [[least], [8], [8]]}] for least in (1, 2))
    assert not covered(asked, built) and covered(built, asked)


def test_an_unknown_free_dimension_is_refused():
    with pytest.raises(BadInputError, match=r"'x' of block-00\.onnx has a free dimension 'Q'"):
        profiles(block(TensorFacts("x", "float32", ["Q"])), Limits(256))


@pytest.mark.parametrize(("context", "rows"), [(1, 256), (256, 256), (257, 512)])
def test_rows_are_whole_buckets(context, rows):
    assert rounded_up(context) == rows
