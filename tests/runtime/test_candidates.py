"""Sampling from candidates gives the tokens and log-probabilities that all logits give, or asks for all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inference_pio.errors import InferencePioError
from inference_pio.runtime.candidates import Candidates, Query
from inference_pio.runtime.sampler import Sampler, token_logprobs
from inference_pio.runtime.sampling_params import SamplingParams

VOCABULARY = 2000


def answer(logits: np.ndarray, query: Query, count: int = 64) -> tuple[Candidates, list[int]]:
    """What a graph with candidate outputs would say; the list grows by one when all logits are fetched."""
    order = np.argsort(-logits, kind="stable")[:count]
    below = (logits - logits.max()).astype(np.float64)
    masses = np.array([np.exp(below / t).sum() for t in query.temperatures], np.float32)
    seen = np.zeros(0, np.int64) if query.seen is None else query.seen.copy()
    fetched: list[int] = []

    def fetch() -> np.ndarray:
        fetched.append(1)
        return logits.copy()

    return Candidates(logits.size, order, logits[order], seen, logits[seen], masses, fetch), fetched


def sampler(**params) -> Sampler:
    sampling = SamplingParams(seed=3, **params).resolve({}, 100)
    return Sampler(sampling, VOCABULARY, [1, 5, 7])


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0},
        {"temperature": 0.0, "repetition_penalty": 1.3},
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
        {"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.05},
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 1.0, "top_p": 0.9, "presence_penalty": 1.5, "frequency_penalty": 0.5},
        {"temperature": 1.2, "min_p": 0.05},
        {"temperature": 0.8, "top_p": 0.95, "min_p": 0.1},
    ],
    ids=str,
)
def test_the_same_tokens(params):
    random = np.random.default_rng(0)
    whole, some = sampler(**params), sampler(**params)
    fetched = 0
    for _ in range(60):
        logits = (random.standard_normal(VOCABULARY) * 4).astype(np.float32)
        candidates, asked = answer(logits, some.query)
        assert some.sample(candidates) == whole.sample(logits.copy())
        fetched += len(asked)
    assert fetched <= 20


def test_without_any_limit_all_logits_are_fetched():
    logits = np.random.default_rng(1).standard_normal(VOCABULARY).astype(np.float32)
    whole, some = sampler(temperature=1.0), sampler(temperature=1.0)
    candidates, asked = answer(logits, some.query)
    assert some.sample(candidates) == whole.sample(logits.copy()) and asked == [1]


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0},
        {"temperature": 1.0, "top_k": 70},
        {"temperature": 1.0, "top_k": 64},
        {"temperature": 1.0, "top_p": 0.01},
        {"temperature": 1.0, "min_p": 0.5},
    ],
    ids=str,
)
def test_ties_at_the_bound_are_not_guessed(params):
    """Every logit is the same, and a device may choose any of them as candidates, here the last ones."""
    logits = np.zeros(VOCABULARY, np.float32)
    whole, some = sampler(**params), sampler(**params)
    candidates, asked = answer(logits, some.query)
    candidates = replace(candidates, ids=np.arange(VOCABULARY - 64, VOCABULARY))
    assert some.sample(candidates) == whole.sample(logits.copy()) and asked == [1]


def test_penalised_candidates_give_way_to_what_is_outside():
    """All candidates are penalised below the bound: only all logits know the best."""
    logits = np.linspace(1, 2, VOCABULARY, dtype=np.float32)
    best = [int(token) for token in np.argsort(-logits)[:64]]
    params = SamplingParams(temperature=0.0, repetition_penalty=4.0).resolve({}, 10)
    whole, some = (Sampler(params, VOCABULARY, best) for _ in range(2))
    candidates, asked = answer(logits, some.query)
    assert some.sample(candidates) == whole.sample(logits.copy()) == best[-1] - 1
    assert asked == [1]


@pytest.mark.parametrize("top", [0, 5, 63, 64])
def test_the_same_log_probabilities(top):
    logits = (np.random.default_rng(2).standard_normal(VOCABULARY) * 3).astype(np.float32)
    candidates, asked = answer(logits, Query((0.5, 1.0), np.array([3, 1999])))
    for token in (int(logits.argmax()), 3):
        expected, found = token_logprobs(logits, token, top), token_logprobs(candidates, token, top)
        assert found.logprob == pytest.approx(expected.logprob, abs=1e-5)
        assert [place for place, _ in found.top] == [place for place, _ in expected.top]
    assert len(asked) == (2 if top == 64 else 0)


def test_broken_logits_are_named():
    logits = np.zeros(VOCABULARY, np.float32)
    logits[1000] = np.nan
    some = sampler(temperature=0.7, top_k=20)
    candidates, _ = answer(logits, some.query)
    with pytest.raises(InferencePioError, match="NaN"):
        some.sample(candidates)
    assert not replace(candidates, masses=np.array([np.nan], np.float32)).sound
