"""The engine on the tiny model: generation, streaming, determinism, limits."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from inference_pio.errors import BadInputError, ResourceLimitError
from inference_pio.runtime import Engine, EngineConfig, FinishReason, SamplingParams
from inference_pio.runtime.generation import CHUNK_TOKENS

GREEDY = SamplingParams(max_new_tokens=24, temperature=0, ignore_eos=True)
PROMPT = "def read(self, size=-1):\n        "


@pytest.fixture(scope="module")
def int8(tiny_artifact) -> Path:
    return tiny_artifact("int8")


@pytest.fixture
def engine(int8: Path) -> Iterator[Engine]:
    with Engine.open(int8) as opened:
        yield opened


def long_prompt(tokens: int) -> list[int]:
    return np.random.default_rng(3).integers(0, 2000, tokens).tolist()


def test_stream_is_generate(engine):
    whole = engine.generate(PROMPT, GREEDY)
    deltas = list(engine.stream(PROMPT, GREEDY))
    assert "".join(delta.text for delta in deltas) == whole.text == deltas[-1].result.text
    assert [token for delta in deltas for token in delta.token_ids] == list(whole.token_ids)
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason is FinishReason.LENGTH
    assert whole.usage.completion_tokens == 24 and whole.usage.prompt_tokens == len(engine.tokenizer.encode(PROMPT))


def test_text_and_ids_are_the_same_prompt(engine):
    assert engine.generate(PROMPT, GREEDY).text == engine.generate(engine.tokenizer.encode(PROMPT), GREEDY).text


def test_lists_give_lists_in_order(engine):
    results = engine.generate([PROMPT, "import os"], GREEDY)
    assert [result.text for result in results] == [engine.generate(p, GREEDY).text for p in (PROMPT, "import os")]
    ids = [engine.tokenizer.encode("import os")]
    assert engine.generate(ids, GREEDY)[0].token_ids == results[1].token_ids


def test_n_answers_differ_by_seed_stream_and_repeat(engine):
    params = SamplingParams(max_new_tokens=12, temperature=1.0, seed=5, n=3, ignore_eos=True)
    answers = [result.token_ids for result in engine.generate(PROMPT, params)]
    assert len(set(answers)) == 3
    assert answers == [result.token_ids for result in engine.generate(PROMPT, params)]


@pytest.mark.parametrize("length", [1, 127, 128, 129, 256, 300, 512])
def test_prefix_cache_changes_nothing(int8, length):
    ids = long_prompt(length)
    with Engine.open(int8, EngineConfig(prefix_cache_bytes=0)) as cold_engine:
        cold = cold_engine.generate(ids, GREEDY)
        logits = cold_engine.logits(ids)
    with Engine.open(int8) as engine:
        first = engine.generate(ids, GREEDY)
        warm = engine.generate(ids, GREEDY)
        engine.prefix_cache.check_integrity()
        assert first.usage.cached_tokens == 0
        assert warm.usage.cached_tokens == (length - 1) // CHUNK_TOKENS * CHUNK_TOKENS
        assert cold.token_ids == first.token_ids == warm.token_ids
        longer = engine.generate([*ids, 7, 8, 9], GREEDY)
        assert longer.usage.cached_tokens == length // CHUNK_TOKENS * CHUNK_TOKENS
        assert np.array_equal(engine.logits(ids), logits)
    with Engine.open(int8, EngineConfig(prefix_cache_bytes=0)) as again:
        assert again.generate([*ids, 7, 8, 9], GREEDY).token_ids == longer.token_ids


def test_hit_is_bit_equal_in_logprobs(int8):
    ids = long_prompt(400)
    params = SamplingParams(max_new_tokens=8, temperature=0, logprobs=3, ignore_eos=True)
    with Engine.open(int8) as engine:
        cold, warm = engine.generate(ids, params), engine.generate(ids, params)
    assert warm.usage.cached_tokens == 384
    assert cold.logprobs == warm.logprobs


def test_a_tiny_budget_evicts_and_stays_right(int8):
    with Engine.open(int8) as engine:
        block = CHUNK_TOKENS * engine.manifest.memory.cache_bytes_per_token
    with Engine.open(int8, EngineConfig(prefix_cache_bytes=2 * block + 4096)) as engine:
        for seed in range(3):
            ids = np.random.default_rng(seed).integers(0, 2000, 300).tolist()
            first, second = engine.generate(ids, GREEDY), engine.generate(ids, GREEDY)
            assert first.token_ids == second.token_ids
            assert second.usage.cached_tokens == 256
            engine.prefix_cache.check_integrity()


def test_teacher_forced_logits_agree_with_generation(engine):
    ids = long_prompt(200)
    answer = engine.generate(ids, GREEDY)
    logits = engine.logits(ids + list(answer.token_ids))
    assert logits.shape == (224, 2048) and logits.dtype == np.float32
    follow = logits[199:-1].argmax(axis=1)
    assert np.mean(follow == np.array(answer.token_ids)) > 0.9


def test_batch_of_logits_is_right_padded(engine):
    rows, lengths = [long_prompt(150), long_prompt(40)], (150, 40)
    ids = np.zeros((2, 150), np.int64)
    mask = np.zeros((2, 150), np.int64)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    batch = engine.logits(ids, mask)
    for row, length in enumerate(lengths):
        assert np.array_equal(batch[row, :length], engine.logits(rows[row]))
        assert not batch[row, length:].any()
    with pytest.raises(BadInputError, match="right"):
        engine.logits(ids[:, ::-1].copy(), mask[:, ::-1].copy())


def test_stop_string_is_cut_and_held_back(engine):
    text = engine.generate(PROMPT, GREEDY).text
    stop = text[5:9]
    params = SamplingParams(max_new_tokens=24, temperature=0, stop=[stop], ignore_eos=True)
    deltas = list(engine.stream(PROMPT, params))
    assert "".join(delta.text for delta in deltas) == text[: text.index(stop)]
    assert deltas[-1].finish_reason is FinishReason.STOP


def test_stop_token(engine):
    tokens = engine.generate(PROMPT, GREEDY).token_ids
    params = SamplingParams(max_new_tokens=24, temperature=0, stop_token_ids=[tokens[4]], ignore_eos=True)
    result = engine.generate(PROMPT, params)
    assert result.token_ids == tokens[: tokens.index(tokens[4]) + 1]
    assert result.finish_reason is FinishReason.STOP
    assert result.text == engine.tokenizer.decode(list(result.token_ids[:-1]))


def test_cancel(engine):
    cancel, seen = Event(), []
    for delta in engine.stream(PROMPT, GREEDY, cancel=cancel):
        seen.append(delta)
        if len(seen) == 3:
            cancel.set()
    assert seen[-1].finish_reason is FinishReason.CANCELLED
    assert seen[-1].result.usage.completion_tokens == 3
    before = Event()
    before.set()
    cancelled = engine.generate(long_prompt(300), GREEDY, cancel=before)
    assert cancelled.finish_reason is FinishReason.CANCELLED and cancelled.token_ids == ()


def test_abandoned_stream_frees_its_buffers(int8):
    with Engine.open(int8, EngineConfig(max_memory=400_000_000, prefix_cache_bytes=0)) as engine:
        for _ in range(50):
            stream = engine.stream(long_prompt(1000), GREEDY)
            next(stream)
            stream.close()
        assert engine.generate(PROMPT, GREEDY).finish_reason is FinishReason.LENGTH


def test_interleaved_streams_do_not_mix(engine):
    alone = [engine.generate(prompt, GREEDY).text for prompt in (PROMPT, "class A:\n")]
    streams = [engine.stream(prompt, GREEDY) for prompt in (PROMPT, "class A:\n")]
    texts = ["", ""]
    for deltas in zip(*streams, strict=True):
        texts = [text + delta.text for text, delta in zip(texts, deltas, strict=True)]
    assert texts == alone


def test_threads_share_an_engine(engine):
    prompts = [f"def f{number}(x):\n" * (1 + number % 3) for number in range(12)]
    alone = [engine.generate(prompt, GREEDY).token_ids for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda prompt: engine.generate(prompt, GREEDY).token_ids, prompts))
    assert together == alone
    engine.prefix_cache.check_integrity()


def test_cache_grows_without_changing_tokens(int8):
    params = SamplingParams(max_new_tokens=700, temperature=0, ignore_eos=True)
    with Engine.open(int8) as engine:
        grown = engine.generate([5], params)
        assert grown.usage.completion_tokens == 700
        follow = engine.generate([5, *grown.token_ids[:-1]], SamplingParams(max_new_tokens=1, temperature=0))
    with Engine.open(int8) as engine:
        engine.generate(long_prompt(2000), GREEDY)  # leaves large buffers behind
        assert engine.generate([5], params).token_ids == grown.token_ids
    assert len(follow.token_ids) == 1


def test_context_that_is_exactly_full(int8):
    with Engine.open(int8, EngineConfig(max_context=200)) as engine:
        result = engine.generate(long_prompt(190), SamplingParams(temperature=0, ignore_eos=True))
        assert result.usage.completion_tokens == 10 and result.finish_reason is FinishReason.LENGTH
        with pytest.raises(BadInputError, match="context"):
            engine.generate(long_prompt(200), GREEDY)
        with pytest.raises(BadInputError, match="201 tokens"):
            engine.generate(long_prompt(201), GREEDY)
        assert engine.logits(long_prompt(200)).shape == (200, 2048)


def test_chat_applies_the_template(engine):
    messages = [{"role": "user", "content": "What does len do?"}]
    result = engine.chat(messages, SamplingParams(max_new_tokens=16, temperature=0))
    streamed = list(engine.stream_chat(messages, SamplingParams(max_new_tokens=16, temperature=0)))
    assert result.text == streamed[-1].result.text
    assert result.usage.prompt_tokens > len(engine.tokenizer.encode("What does len do?"))


def test_closed_engine_refuses(int8):
    engine = Engine.open(int8)
    engine.close()
    engine.close()
    with pytest.raises(BadInputError, match="closed"):
        engine.generate(PROMPT)
    with pytest.raises(BadInputError, match="closed"):
        engine.logits([1])


def test_an_engine_that_is_closed_while_it_answers(int8):
    engine = Engine.open(int8)
    answer = engine.stream(PROMPT, SamplingParams(max_new_tokens=50, ignore_eos=True))
    logits = engine.stream_logits([1] * 300)
    next(answer), next(logits)
    engine.close()
    for running in (answer, logits):
        with pytest.raises(BadInputError, match="the engine is closed"):
            list(running)


def test_memory_limits(int8):
    with pytest.raises(ResourceLimitError, match="weights"):
        Engine.open(int8, EngineConfig(max_memory=1_000_000))
    config = EngineConfig(max_memory=170_000_000, prefix_cache_bytes=0)
    with Engine.open(int8, config) as engine:
        assert engine.generate([1, 2, 3], GREEDY).token_ids
        with pytest.raises(ResourceLimitError, match="key/value cache"):
            engine.generate(long_prompt(4000), GREEDY)
        assert engine.generate([1, 2, 3], GREEDY).token_ids


def test_buffers_that_nobody_uses_make_room(int8):
    with Engine.open(int8, EngineConfig(prefix_cache_bytes=0)) as engine:
        taken, token = engine._opened.budget.taken, engine.manifest.memory.cache_bytes_per_token
    config = EngineConfig(max_memory=taken + 1400 * token, prefix_cache_bytes=0)
    with Engine.open(int8, config) as engine:
        answer = engine.stream([5], SamplingParams(max_new_tokens=300, temperature=0, ignore_eos=True))
        next(answer)
        engine.generate(long_prompt(1000), GREEDY)  # leaves buffers for 1,024 tokens behind; 256 are in use
        assert len(list(answer)) == 299
        with pytest.raises(ResourceLimitError, match="key/value cache of 1536 tokens"):
            engine.generate(long_prompt(1400), GREEDY)


@pytest.mark.parametrize("threads", [1, 2])
def test_same_tokens_every_time(int8, threads):
    answers = set()
    for _ in range(2):
        with Engine.open(int8, EngineConfig(threads=threads)) as engine:
            answers.add(engine.generate(long_prompt(333), GREEDY).token_ids)
    assert len(answers) == 1
