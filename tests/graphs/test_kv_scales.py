"""Steps of the int8 cache: they hold at every position, combine over batches, and bad ones are refused by name."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_pio.errors import BadInputError
from inference_pio.graphs.kv_scales import KvScales, check_scales, key_scales, round_trip, value_scales

KEYS = np.random.default_rng(0).normal(0, 3, (50, 2, 8)).astype(np.float32)
GOOD = KvScales(key_scales(KEYS), value_scales(KEYS))


@given(st.floats(0, 2 * np.pi), st.integers(1, 40))
def test_no_turn_of_a_rotary_pair_leaves_the_range(angle, tokens):
    keys = KEYS[:tokens]
    first, second = keys[..., :4], keys[..., 4:]
    turned = np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), first * np.sin(angle) + second * np.cos(angle)], axis=-1
    )
    assert (np.abs(turned) <= 127.001 * key_scales(keys)).all()


def test_the_longest_pair_sets_the_step_of_both_its_channels():
    keys = np.zeros((3, 1, 4), np.float32)
    keys[1, 0] = [3, 0, 4, 0]
    assert key_scales(keys)[0] == pytest.approx([5 / 127, 0, 5 / 127, 0])
    assert key_scales(keys, rope_scaling=2.0)[0] == pytest.approx([10 / 127, 0, 10 / 127, 0])
    assert value_scales(-keys)[0] == pytest.approx([3 / 127, 0, 4 / 127, 0])


def test_steps_of_batches_combine_to_those_of_all_tokens():
    for function in (key_scales, value_scales):
        combined = np.maximum(function(KEYS[:20]), function(KEYS[20:]))
        assert (combined == function(KEYS)).all()
        assert function(KEYS[:0]).tolist() == np.zeros((2, 8)).tolist()


def test_a_round_trip_errs_by_half_a_step_and_clips_beyond():
    steps = value_scales(KEYS)
    assert (np.abs(round_trip(KEYS, steps) - KEYS) <= 0.5001 * steps).all()
    assert np.allclose(round_trip(100 * np.abs(KEYS) + 100, steps), 127 * steps)
    assert round_trip(np.float32([0.4, 0.6]), np.float32([0.0, 0.0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_activations_are_refused(bad):
    for function, name in ((key_scales, "keys"), (value_scales, "values")):
        broken = KEYS.copy()
        broken[3, 1, 2] = bad
        with pytest.raises(BadInputError, match=f"the {name} that calibration saw hold NaN or infinity"):
            function(broken)


def test_scales_that_do_not_fit_the_model_are_refused():
    check_scales(GOOD, 3, 2, 8)
    uneven, negative, infinite = GOOD.key.copy(), GOOD.value.copy(), GOOD.value.copy()
    uneven[0, 1] *= 2
    negative[1, 1] = -1
    infinite[0, 0] = np.inf
    cases = {
        "for 2 x 8 key channels and the model has 4 heads of 8": (GOOD, 4),
        "two channels that the rotary embedding mixes": (replace(GOOD, key=uneven), 2),
        "a value step that is negative or not finite": (replace(GOOD, value=negative), 2),
        "value step that is negative": (replace(GOOD, value=infinite), 2),
    }
    for message, (scales, heads) in cases.items():
        with pytest.raises(BadInputError, match=f"layer 3's key/value scales.*{message}"):
            check_scales(scales, 3, heads, 8)
