"""Requests that make no sense are refused with one sentence, and the engine serves the next one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from inference_pio.errors import BadInputError
from inference_pio.runtime import Engine, EngineConfig, SamplingParams


@pytest.fixture(scope="module")
def engine(tiny_artifact) -> Iterator[Engine]:
    with Engine.open(tiny_artifact("int8")) as opened:
        yield opened
        assert opened.generate("import", SamplingParams(max_new_tokens=2)).token_ids


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("", "empty"),
        ([], "empty"),
        ([-1], "outside the vocabulary"),
        ([2048], "outside the vocabulary"),
        ([1, 2**63], "outside the vocabulary"),
        ([1, True], "not an integer"),
        ([1, 2.0], "not an integer"),
        ([1, None], "not an integer"),
        ([1, "a"], "not an integer"),
        (None, "prompt"),
        (7, "prompt"),
        (b"bytes", "prompt"),
        ({"a": 1}, "prompt"),
        ([[]], "empty"),
        (["ok", ""], "empty"),
        ([[1], [9999]], "outside the vocabulary"),
        ([None], "prompt"),
        ("\ud800", "Unicode"),
        ([5] * 5000, "context"),
        (np.ones((2, 3), np.float32), "not an integer"),
        (np.ones((1, 2, 3), np.int64), "prompt"),
    ],
)
def test_bad_prompts(engine, prompt, word):
    with pytest.raises(BadInputError, match=word):
        engine.generate(prompt, SamplingParams(max_new_tokens=2))


def test_numpy_prompts_are_fine(engine):
    params = SamplingParams(max_new_tokens=3, temperature=0)
    one = engine.generate(np.array([5, 6, 7]), params)
    two = engine.generate(np.array([[5, 6, 7], [5, 6, 7]]), params)
    assert [result.token_ids for result in two] == [one.token_ids] * 2


def test_stream_refuses_at_the_call(engine):
    with pytest.raises(BadInputError, match="outside"):
        engine.stream([9999])
    with pytest.raises(BadInputError, match="one prompt"):
        engine.stream(["a", "b"])
    with pytest.raises(BadInputError, match="n=1"):
        engine.stream("a", SamplingParams(n=2))


@pytest.mark.parametrize(
    "mask",
    [
        [[0, 1, 1], [1, 1, 1]],
        [[1, 0, 1], [1, 1, 1]],
        [[0, 0, 0], [1, 1, 1]],
        [[1, 2, 1], [1, 1, 1]],
        [[1, 1], [1, 1]],
        [1, 1, 1],
        [[-1, 1, 1], [1, 1, 1]],
    ],
)
def test_bad_batches(engine, mask):
    with pytest.raises(BadInputError):
        engine.logits(np.ones((2, 3), np.int64), np.array(mask))


@pytest.mark.parametrize("messages", [[], None, "hi", [{}], [{"role": 1, "content": "x"}], ["hi"], [{"content": "x"}]])
def test_bad_messages(engine, messages):
    with pytest.raises(BadInputError):
        engine.chat(messages)


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 0},
        {"threads": True},
        {"threads": 1.5},
        {"max_context": 0},
        {"max_memory": -1},
        {"prefix_cache_bytes": -1},
        {"prefix_cache_bytes": None},
        {"backend": "torch"},
        {"device": "gpu"},
        {"verify_hashes": "never"},
    ],
)
def test_bad_engine_options(options):
    with pytest.raises(BadInputError, match=next(iter(options))):
        EngineConfig(**options)
