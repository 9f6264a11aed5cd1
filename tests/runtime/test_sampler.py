"""The sampler means what transformers' logits processors mean, and draws accordingly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from inference_pio.errors import BadInputError, InferencePioError
from inference_pio.runtime.sampler import Sampler, token_logprobs
from inference_pio.runtime.sampling_params import SamplingParams

PROMPT = [3, 1, 3, 0]


def sampler(size: int, prompt: Sequence[int] = (), stream: int = 0, **fields) -> Sampler:
    return Sampler(SamplingParams(**({"seed": 1} | fields)).resolve({}, 1000), size, prompt, stream)


def some_logits(size: int, seed: int = 0, scale: float = 4.0, rounded: bool = False) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=size) * scale
    return (np.round(values) if rounded else values).astype(np.float32)


def reference(logits: np.ndarray, seen: Sequence[int], **fields) -> np.ndarray:
    """Probabilities [V] by transformers: the penalty in float32 as it does, the warpers in float64."""
    scores = torch.from_numpy(logits.copy())[None]
    ids = torch.tensor([list(seen)], dtype=torch.long)
    if fields.get("repetition_penalty", 1.0) != 1.0:
        scores = RepetitionPenaltyLogitsProcessor(fields["repetition_penalty"])(ids, scores)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(float(fields["temperature"]))])
    if fields.get("top_k"):
        warpers.append(TopKLogitsWarper(fields["top_k"]))
    if fields.get("top_p", 1.0) < 1.0:
        warpers.append(TopPLogitsWarper(fields["top_p"]))
    if fields.get("min_p"):
        warpers.append(MinPLogitsWarper(fields["min_p"]))
    return torch.softmax(warpers(ids, scores.double()), -1)[0].numpy()


def check_against_reference(logits: np.ndarray, prompt: Sequence[int], **fields) -> None:
    ids, probabilities = sampler(len(logits), prompt, **fields).distribution(logits)
    expected = reference(logits, prompt, **fields)
    support = np.flatnonzero(expected)
    # A weight may underflow to zero in the support without being removed.
    found = dict(zip(ids.tolist(), probabilities.tolist(), strict=True))
    assert set(support.tolist()) <= set(found)
    assert all(value == 0 for token, value in found.items() if expected[token] == 0)
    assert np.allclose([found[token] for token in support.tolist()], expected[support], rtol=1e-9, atol=0)


FIELDS = [
    {},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 50, "top_p": 0.9},
    {"top_k": 10**9, "top_p": 0.3},
    {"top_p": 0.01},
    {"top_p": 0.5, "min_p": 0.2},
    {"top_p": 0.95},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 20, "top_p": 0.8, "min_p": 0.01, "repetition_penalty": 1.3},
    {"repetition_penalty": 0.5},
    {"top_k": 3, "repetition_penalty": 25.0},
]


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 5.0])
@pytest.mark.parametrize("fields", FIELDS, ids=str)
@pytest.mark.parametrize("size", [4, 50, 333, 40_000])
def test_same_support_and_probabilities(size, fields, temperature):
    check_against_reference(some_logits(size, seed=size), PROMPT, temperature=temperature, **fields)


@pytest.mark.parametrize("size", [7, 900])
def test_all_ties_at_the_kth_value_stay(size):
    logits = some_logits(size, rounded=True)
    for k in (1, 2, 3, 10):
        check_against_reference(logits, [], temperature=0.9, top_k=k)
    flat = np.zeros(size, np.float32)
    assert len(sampler(size, temperature=1.0, top_k=2).distribution(flat)[0]) == size


def test_ties_at_the_edge_of_top_p_keep_the_lower_ids():
    """transformers keeps as many, of ids that its sort happens to put last."""
    logits = np.array([1, 2, 1, 1, 2, 1], np.float32)
    ids, probabilities = sampler(6, temperature=1.0, top_p=0.75).distribution(logits)
    expected = reference(logits, [], temperature=1.0, top_p=0.75)
    assert ids.tolist() == [0, 1, 2, 4]
    assert np.allclose(np.sort(probabilities), np.sort(expected[expected > 0]))


@settings(max_examples=200, deadline=None)
@given(
    logits=st.lists(
        st.one_of(st.just(float("-inf")), st.floats(-30, 30, width=32)), min_size=2, max_size=40, unique=True
    ),
    temperature=st.floats(0.05, 20),
    top_k=st.integers(0, 45),
    top_p=st.sampled_from([0.05, 0.37, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.6]),
    penalty=st.sampled_from([1.0, 1.1, 3.0]),
)
def test_any_logits_like_transformers(logits, temperature, top_k, top_p, min_p, penalty):
    array = np.array(logits, np.float32)
    # Different values may still have the same weight in floating point: then the edge of top_p is a toss-up.
    scaled = np.sort(array[np.isfinite(array)].astype(np.float64) / temperature)
    if len(scaled) == 0 or (len(scaled) > 1 and np.diff(scaled).min() < 1e-6):
        return
    seen = [0, len(logits) - 1]
    fields = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    check_against_reference(array, seen, **fields, repetition_penalty=penalty)


@pytest.mark.parametrize("size", [5, 1000, 151_936])
def test_greedy_takes_the_first_of_the_largest(size):
    logits = np.full(size, -1.0, np.float32)
    logits[[size // 2, size - 1]] = 3.0
    assert sampler(size, temperature=0).sample(logits) == size // 2
    assert sampler(size, temperature=0).distribution(logits)[0].tolist() == [size // 2]


@pytest.mark.parametrize("penalty", [0.7, 1.3, 1e-300, 1e300])
def test_greedy_with_repetition_penalty_over_an_answer(penalty):
    """Prompt and answer count, once each, bit for bit as transformers computes it."""
    size, prompt = 300, [5, 5, 9]
    ours = sampler(size, prompt, temperature=0, repetition_penalty=penalty)
    seen = list(prompt)
    for step in range(40):
        logits = some_logits(size, seed=step % 3)
        clipped = float(np.clip(penalty, 1e-30, 1e30))
        scores = RepetitionPenaltyLogitsProcessor(clipped)(torch.tensor([seen]), torch.from_numpy(logits.copy())[None])
        token = ours.sample(logits)
        assert token == int(scores.argmax())
        seen.append(token)


def test_presence_and_frequency_count_the_answer_alone():
    prompt, size = [0, 0, 1], 4
    fields = {"temperature": 1.0, "presence_penalty": 0.5, "frequency_penalty": 0.25, "top_k": 4}
    ours = sampler(size, prompt, **fields)
    logits = np.array([1.0, -1.0, 0.5, 0.25], np.float32)
    counts = np.zeros(size)
    for _ in range(30):
        adjusted = logits - 0.25 * counts - 0.5 * (counts > 0)
        ids, probabilities = ours.distribution(logits)
        assert np.allclose(probabilities, np.exp(adjusted[ids]) / np.exp(adjusted).sum(), rtol=1e-6)
        counts[ours.sample(logits)] += 1
    assert counts.sum() == 30 and (counts > 1).any()


def test_all_penalties_in_order():
    """Repetition scales the logit itself, before presence and frequency are subtracted."""
    ours = sampler(3, [1], temperature=0, repetition_penalty=2.0, presence_penalty=1.0, frequency_penalty=0.5)
    assert [ours.sample(np.array([4.1, 4.0, -9.0], np.float32)) for _ in range(5)] == [0, 1, 0, 1, 0]
    # 0: 4.1, then 2.05-1.5; 1: 2, then 2-1.5; 0: 0.55, then 0.05; 1: 0.5, then 0
    assert sampler(2, [0], temperature=0, repetition_penalty=2.0).sample(np.array([-1.0, -1.5], np.float32)) == 1


def test_presence_and_frequency_leave_the_prompt_alone_beside_repetition():
    fields = {"repetition_penalty": 2.0, "presence_penalty": 50.0, "frequency_penalty": 50.0}
    ours = sampler(3, [1, 1], temperature=0, **fields)
    assert ours.sample(np.array([0.5, 4.0, 1.5], np.float32)) == 1


@pytest.mark.parametrize("fields", [{"presence_penalty": 1.0}, {"frequency_penalty": 1.0}, {"repetition_penalty": 1.5}])
def test_more_tokens_than_the_first_room_for_counts(fields):
    size = 2000
    ours = sampler(size, [], temperature=0, **fields)
    logits = np.linspace(9.0, 8.9, size).astype(np.float32)
    assert [ours.sample(logits) for _ in range(500)] == list(range(500))


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 0.8, "top_k": 7}, {"temperature": 2.0}])
def test_the_logits_are_given_back(fields):
    ours = sampler(600, PROMPT, repetition_penalty=1.7, presence_penalty=0.3, frequency_penalty=0.2, **fields)
    logits = some_logits(600)
    before = logits.copy()
    for _ in range(5):
        ours.sample(logits)
        ours.distribution(logits)
        assert np.array_equal(logits, before)
    broken = np.full(600, np.nan, np.float32)
    with pytest.raises(InferencePioError):
        ours.sample(broken)
    assert np.isnan(broken).all()


@pytest.mark.parametrize(
    "fields",
    [{}, {"top_k": 12}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_k": 40, "top_p": 0.9, "presence_penalty": 0.0}],
    ids=str,
)
@pytest.mark.parametrize("size", [30, 2000])
def test_draws_follow_the_distribution(size, fields):
    """Pearson's statistic over 10,000 draws; the seed is fixed, so this passes always or never."""
    ours = sampler(size, temperature=1.3, **fields)
    logits = some_logits(size, scale=1.0)
    ids, probabilities = ours.distribution(logits)
    draws = 10_000
    counts = np.zeros(size)
    for _ in range(draws):
        counts[ours.sample(logits)] += 1
    assert counts[np.setdiff1d(np.arange(size), ids)].sum() == 0
    expected = probabilities * draws
    statistic = ((counts[ids] - expected) ** 2 / expected).sum()
    degrees = len(ids) - 1
    assert statistic < degrees + 4 * np.sqrt(2 * degrees)


def tokens_of(count: int = 30, **fields) -> list[int]:
    ours = sampler(5000, PROMPT, **({"temperature": 1.5} | fields))
    return [ours.sample(some_logits(5000, seed=step)) for step in range(count)]


@pytest.mark.parametrize("fields", [{}, {"top_k": 30}, {"top_p": 0.7}], ids=str)
def test_seeds_and_streams(fields):
    assert tokens_of(seed=3, **fields) == tokens_of(seed=3, **fields)
    different = {tuple(tokens_of(seed=seed, stream=stream, **fields)) for seed in (3, 4) for stream in (0, 1, 2)}
    assert len(different) == 6
    assert len({tuple(tokens_of(seed=None, **fields)) for _ in range(4)}) == 4


@pytest.mark.parametrize(
    "fields", [{"temperature": 0}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 3}], ids=str
)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([-np.inf] * 4, "no finite"),
        ([1, np.nan, 2, 3], "NaN"),
        ([np.nan] * 4, "NaN"),
        ([1, np.inf, 2, 3], "infinity"),
    ],
)
def test_logits_without_a_choice(values, message, fields):
    with pytest.raises(InferencePioError, match=message):
        sampler(4, **fields).sample(np.array(values, np.float32))


@pytest.mark.parametrize("temperature", [5e-324, 1e-20, 1.0, 1e30, 1e300])
@pytest.mark.parametrize("fields", [{}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.5}, {"repetition_penalty": 1e-300}])
def test_extreme_values_stay_finite(temperature, fields):
    logits = np.array([3e38, -3e38, -np.inf, 2.9e38], np.float32)
    ours = sampler(4, [0, 1, 2], temperature=temperature, frequency_penalty=1e300, **fields)
    with np.errstate(all="raise", under="ignore"):
        ids, probabilities = ours.distribution(logits)
        for _ in range(5):
            assert ours.sample(logits) in (0, 1, 3)
    assert np.isfinite(probabilities).all() and abs(probabilities.sum() - 1) < 1e-12
    assert probabilities[ids == 2].sum() == 0


@pytest.mark.parametrize(
    "logits",
    [np.zeros(3, np.float32), np.zeros((1, 4), np.float32), np.zeros(4, np.float64), np.zeros(4, np.float16)],
)
def test_logits_of_another_kind(logits):
    with pytest.raises(InferencePioError, match="float32"):
        sampler(4).sample(logits)


@pytest.mark.parametrize("prompt", [[4], [-1], [0, 99]])
def test_a_prompt_outside_the_vocabulary(prompt):
    with pytest.raises(BadInputError, match="vocabulary"):
        sampler(4, prompt)


@pytest.mark.parametrize("size", [5, 300, 40_000])
def test_token_logprobs(size):
    logits = some_logits(size, seed=size)
    logits[1] = -np.inf
    expected = torch.log_softmax(torch.from_numpy(logits).double(), -1).numpy()
    found = token_logprobs(logits, 2, 4)
    assert (found.token_id, len(found.top)) == (2, 4)
    assert np.isclose(found.logprob, expected[2], atol=1e-6)
    order = np.argsort(-expected, kind="stable")[:4]
    assert [token for token, _ in found.top] == order.tolist()
    assert np.allclose([value for _, value in found.top], expected[order], atol=1e-6)
    assert token_logprobs(logits, 2, 0).top == ()
    assert token_logprobs(logits, 1, 1).logprob == -np.inf


def test_token_logprobs_are_of_the_model_alone():
    """Penalties, temperature and the sampling of the token do not show."""
    logits = some_logits(50)
    before = token_logprobs(logits, 3, 5)
    ours = sampler(50, [3], temperature=0.1, top_k=2, repetition_penalty=9.0)
    ours.sample(logits)
    assert token_logprobs(logits, 3, 5) == before


def test_token_logprobs_of_equals_and_few():
    found = token_logprobs(np.array([1, 2, 2, 0], np.float32), 0, 20)
    assert [token for token, _ in found.top] == [1, 2, 0, 3]


@pytest.mark.parametrize(("values", "token"), [([1, np.nan], 0), ([-np.inf] * 2, 0), ([1, 2], 2), ([1, 2], -1)])
def test_token_logprobs_of_nonsense(values, token):
    with pytest.raises(InferencePioError):
        token_logprobs(np.array(values, np.float32), token, 1)
