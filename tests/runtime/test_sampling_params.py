"""What a caller asks, what a generation config says, and what comes of the two."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
from transformers import GenerationConfig

from inference_pio.errors import BadInputError
from inference_pio.runtime.generation_defaults import GenerationDefaults, not_implemented
from inference_pio.runtime.sampling_params import DEFAULT_MAX_NEW_TOKENS, ResolvedSampling, SamplingParams

GREEDY = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}


def resolved(config: dict[str, Any] | None = None, left: int = 4096, **fields: Any) -> ResolvedSampling:
    return SamplingParams(**fields).resolve(config, left)


def picked(sampling: ResolvedSampling, names=GREEDY) -> dict[str, Any]:
    return {name: getattr(sampling, name) for name in names}


@pytest.mark.parametrize("config", [None, {}, {"do_sample": False}, {"do_sample": None, "temperature": 0.7}])
def test_greedy_by_default(config):
    sampling = resolved(config)
    assert picked(sampling) == GREEDY and sampling.greedy
    assert sampling.max_new_tokens == DEFAULT_MAX_NEW_TOKENS == 1024
    assert (sampling.stop, sampling.stop_token_ids, sampling.logprobs, sampling.n) == ((), frozenset(), None, 1)
    assert sampling.presence_penalty == sampling.frequency_penalty == 0.0


def test_a_sampling_config_has_the_defaults_of_transformers():
    defaults = GenerationConfig._get_default_generation_params()
    sampling = resolved({"do_sample": True})
    for name in ("temperature", "top_k", "top_p", "repetition_penalty"):
        assert getattr(sampling, name) == defaults[name]
    assert sampling.min_p == 0.0 and not sampling.greedy


def test_a_published_config():
    config = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05, "min_p": 0}
    config |= {"eos_token_id": [151645, 151643], "pad_token_id": 151643, "transformers_version": "4.51.0"}
    assert picked(resolved(config)) == {
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
        "min_p": 0.0,
        "repetition_penalty": 1.05,
    }
    assert resolved(config).stop_token_ids == {151645, 151643}
    greedy = resolved(config, temperature=0)
    assert greedy.greedy and greedy.repetition_penalty == 1.05


def test_the_repetition_penalty_holds_for_greedy_too():
    assert resolved({"repetition_penalty": 1.2}).repetition_penalty == 1.2


def test_the_caller_comes_first():
    config = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "max_new_tokens": 7}
    sampling = resolved(config, temperature=0.5, top_p=1, top_k=0, min_p=0.1, repetition_penalty=2, max_new_tokens=9)
    assert picked(sampling) == {
        "temperature": 0.5,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.1,
        "repetition_penalty": 2.0,
    }
    assert sampling.max_new_tokens == 9


def test_a_temperature_for_a_greedy_config():
    """top_k and top_p are off then, unless the config names them."""
    assert picked(resolved({}, temperature=0.5)) == GREEDY | {"temperature": 0.5}
    assert resolved({"top_k": 5}, temperature=0.5).top_k == 5


@pytest.mark.parametrize(
    ("config", "fields", "left", "expected"),
    [
        ({}, {}, 5000, 1024),
        ({}, {}, 30, 30),
        ({"max_new_tokens": 2048}, {}, 5000, 2048),
        ({"max_new_tokens": 2048}, {}, 100, 100),
        ({"max_new_tokens": 2048}, {"max_new_tokens": 3}, 100, 3),
        ({}, {"max_new_tokens": 3000}, 5000, 3000),
        ({}, {"max_new_tokens": 3000}, 1, 1),
        ({"max_length": 20}, {}, 5000, 1024),
    ],
)
def test_max_new_tokens(config, fields, left, expected):
    assert resolved(config, left, **fields).max_new_tokens == expected


@pytest.mark.parametrize("left", [0, -3])
def test_a_full_context(left):
    with pytest.raises(BadInputError, match="context"):
        resolved({}, left)


def test_stop_ids():
    assert resolved({"eos_token_id": 3}).stop_token_ids == {3}
    assert resolved({"eos_token_id": [3, 4]}, stop_token_ids=[5]).stop_token_ids == {3, 4, 5}
    assert resolved({"eos_token_id": [3, 4]}, stop_token_ids=[5], ignore_eos=True).stop_token_ids == {5}
    assert resolved({"eos_token_id": None}).stop_token_ids == frozenset()
    assert SamplingParams(stop_token_ids=iter([1, np.int64(2)])).stop_token_ids == (1, 2)


def test_stop_strings():
    assert SamplingParams(stop="a").stop == ("a",)
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")
    assert resolved({"stop_strings": "x"}).stop == ("x",)
    assert resolved({"stop_strings": ["x"]}, stop=()).stop == ()
    assert resolved({}, stop=["a"]).stop == ("a",)


def test_a_seed_is_drawn_where_there_is_none():
    assert resolved({}, seed=7).seed == 7
    drawn = {resolved({}).seed for _ in range(8)}
    assert len(drawn) == 8 and all(0 <= seed < 2**63 for seed in drawn)


def test_both_are_frozen_hashable_and_concrete():
    params = SamplingParams(stop=["a"], stop_token_ids=[1])
    assert hash(params) == hash(SamplingParams(stop=("a",), stop_token_ids=(1,)))
    for instance in (params, params.resolve({}, 10)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            instance.n = 2
    values = dataclasses.asdict(params.resolve({}, 10))
    assert [name for name, value in values.items() if value is None] == ["logprobs"]


def test_numbers_of_numpy_become_plain():
    params = SamplingParams(temperature=np.float32(0.5), top_k=np.int64(3), top_p=1, seed=np.uint32(4))
    assert [type(value) for value in (params.temperature, params.top_k, params.top_p, params.seed)] == [
        float,
        int,
        float,
        int,
    ]


def test_generation_defaults_ignore_what_they_do_not_know():
    assert GenerationDefaults.read({"unknown": object()}) == GenerationDefaults.read({})


def test_what_is_left_out_is_known():
    config = {"num_beams": 4, "typical_p": 1.0, "min_new_tokens": 0, "suppress_tokens": [3], "top_k": 5, "top_h": None}
    assert not_implemented(config) == ("num_beams", "suppress_tokens")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not_implemented(GenerationConfig().to_dict() | GenerationConfig._get_default_generation_params()) == ()
