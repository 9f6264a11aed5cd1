"""Sampling values and generation configs that make no sense are refused by name, in one sentence."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from inference_pio.errors import BadInputError
from inference_pio.runtime.sampling_params import SamplingParams

NOT_NUMBERS = ["1", True, b"1", [1], {}, 1j, np.array([1.0]), np.bool_(True), object()]
NOT_FINITE = [math.nan, math.inf, -math.inf, np.float32("nan"), 10**400, Fraction(10**400)]

BAD: dict[str, list[Any]] = {
    "temperature": [-0.1, -1e-300, *NOT_NUMBERS, *NOT_FINITE],
    "top_p": [0, 0.0, -0.5, 1.0000001, 2, *NOT_NUMBERS, *NOT_FINITE],
    "min_p": [-0.1, 1.1, *NOT_NUMBERS, *NOT_FINITE],
    "repetition_penalty": [0, 0.0, -1, *NOT_NUMBERS, *NOT_FINITE],
    "presence_penalty": [-0.1, *NOT_NUMBERS, *NOT_FINITE],
    "frequency_penalty": [-2, *NOT_NUMBERS, *NOT_FINITE],
    "top_k": [-1, 1.0, 0.5, *NOT_NUMBERS, *NOT_FINITE[:4]],
    "max_new_tokens": [0, -1, -(10**5000), 1.0, *NOT_NUMBERS, *NOT_FINITE[:4]],
    "seed": [-1, 0.0, *NOT_NUMBERS, *NOT_FINITE[:4]],
    "logprobs": [-1, 21, 10**5000, 1.0, *NOT_NUMBERS],
    "n": [0, -1, None, 1.5, *NOT_NUMBERS],
    "ignore_eos": [0, 1, None, "true", "false"],
    "stop": ["", ["a", ""], [""], [1], [None], 5, b"a", {"a": 1}, "\ud800", ["ok", "a\udfff"], [10**5000]],
    "stop_token_ids": [5, "5", [-1], [1.0], [True], ["1"], [None], [2**31], [10**5000], [[1]]],
}

BAD_CONFIG: dict[str, list[Any]] = {
    "do_sample": ["true", 1, 0, []],
    "temperature": [-1, "warm", [], math.nan, True],
    "top_k": [-1, 2.5, "all", False],
    "top_p": [0, 1.5, "most", math.inf],
    "min_p": [-0.1, 2, "x"],
    "repetition_penalty": [0, -1, "none"],
    "max_new_tokens": [0, -5, 1.5, "many"],
    "eos_token_id": ["</s>", -1, 1.5, [1, -2], [[1]], {"a": 1}, True, [None]],
    "stop_strings": ["", [""], 5, [5]],
}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(name, value, id=f"{name}-{index}")
        for name, values in table.items()
        for index, value in enumerate(values)
    ]


def sentence(error: BadInputError) -> str:
    text = str(error)
    assert "\n" not in text and len(text) < 250
    return text


@pytest.mark.parametrize(("name", "value"), cases(BAD))
def test_values(name, value):
    with pytest.raises(BadInputError) as caught:
        SamplingParams(**{name: value})
    assert sentence(caught.value).startswith(name)


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize(("name", "value"), cases(BAD_CONFIG))
def test_generation_configs(name, value, sampled):
    """Refused whether or not the value would be used, so that a request never meets it later."""
    config = {"do_sample": sampled, "temperature": 1.0} | {name: value}
    with pytest.raises(BadInputError) as caught:
        SamplingParams(temperature=0.5).resolve(config, 10)
    assert f"generation_config.json's {name}" in sentence(caught.value)


@pytest.mark.parametrize("config", [[], "x", 5, [1, 2]])
def test_a_config_that_is_none(config):
    with pytest.raises(BadInputError, match=r"generation_config\.json"):
        SamplingParams().resolve(config or [0], 10)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 1e300},
        {"temperature": 5e-324},
        {"top_p": 5e-324},
        {"top_p": 1},
        {"min_p": 0},
        {"min_p": 1},
        {"top_k": 10**30},
        {"seed": 0},
        {"seed": 2**64},
        {"logprobs": 0},
        {"logprobs": 20},
        {"repetition_penalty": 1e-300},
        {"presence_penalty": 0},
        {"stop": []},
        {"stop_token_ids": []},
        {"stop_token_ids": np.array([1, 2])},
        {"n": 100},
    ],
)
def test_values_at_the_edge_are_taken(fields):
    assert SamplingParams(**fields).resolve({}, 5).max_new_tokens == 5
