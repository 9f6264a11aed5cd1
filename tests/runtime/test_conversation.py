"""Conversations: what is kept, what is dropped, and how much of each turn's prompt comes from the prefix cache."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from inference_pio.errors import BadInputError
from inference_pio.runtime import Engine, EngineConfig, FinishReason, SamplingParams
from inference_pio.runtime.conversation import KEPT_SHARE, Conversation
from inference_pio.runtime.generation import CHUNK_TOKENS

sys.path.insert(0, str(Path(__file__).parents[1]))
from chat_cases import TEMPLATE, TOOLS, artifact_with_template, say

FEW = SamplingParams(max_new_tokens=6, temperature=0, ignore_eos=True)
SYSTEM = "You are a parser of Python. " * 30


@pytest.fixture(scope="module")
def int8(tiny_artifact) -> Path:
    return tiny_artifact("int8")


@pytest.fixture
def engine(int8: Path) -> Iterator[Engine]:
    with Engine.open(int8) as opened:
        yield opened


def talk(engine: Engine, turns: int, **more: Any) -> tuple[Conversation, list[Any]]:
    conversation = Conversation(engine, SYSTEM, params=FEW, **more)
    return conversation, [conversation.ask(f"Question {turn}: what is a class?") for turn in range(turns)]


def test_an_answer_sees_what_was_said_before(engine: Engine):
    conversation, results = talk(engine, 2)
    said = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "Question 0: what is a class?"},
        {"role": "assistant", "content": results[0].text},
        {"role": "user", "content": "Question 1: what is a class?"},
    ]
    assert conversation.messages == [*said, {"role": "assistant", "content": results[1].text}]
    assert engine.chat(said, FEW).token_ids == results[1].token_ids
    assert results[1].usage.prompt_tokens == len(engine.chat_tokens(said))


def test_the_prefix_cache_holds_the_turns_before(int8: Path):
    with Engine.open(int8) as engine:
        _, results = talk(engine, 5)
        prompts = [result.usage.prompt_tokens for result in results]
        found = [result.usage.cached_tokens for result in results]
        assert found[0] == 0 and prompts[0] > 2 * CHUNK_TOKENS
        assert found[1:] == [before // CHUNK_TOKENS * CHUNK_TOKENS for before in prompts[:-1]]
    with Engine.open(int8, EngineConfig(prefix_cache_bytes=0)) as engine:
        _, without = talk(engine, 5)
        assert [result.usage.cached_tokens for result in without] == [0] * 5
    assert [result.token_ids for result in without] == [result.token_ids for result in results]


def test_old_turns_go_whole_and_the_system_prompt_stays(engine: Engine):
    budget = len(engine.chat_tokens([{"role": "system", "content": SYSTEM}])) + 120
    conversation, results = talk(engine, 12, history_tokens=budget)
    assert all(result.usage.prompt_tokens <= budget for result in results)
    left = conversation.messages
    assert left[0] == {"role": "system", "content": SYSTEM}
    assert [message["role"] for message in left[1:]] == ["user", "assistant"] * ((len(left) - 1) // 2)
    questions = [message["content"] for message in left if message["role"] == "user"]
    assert questions == [f"Question {turn}: what is a class?" for turn in range(12 - len(questions), 12)]
    assert conversation.dropped_turns == 12 - len(questions) > 0


def test_dropping_ahead_spares_the_cache(engine: Engine):
    """Turns are dropped in few of the requests, and in between the prompt only grows."""
    budget = len(engine.chat_tokens([{"role": "system", "content": "Be brief."}])) + 800
    conversation = Conversation(engine, "Be brief.", history_tokens=budget, params=FEW)
    sizes, dropped = [], []
    for turn in range(40):
        before = conversation.dropped_turns
        sizes.append(conversation.ask(f"Question {turn}: " + "what is a class? " * 3).usage.prompt_tokens)
        dropped.append(conversation.dropped_turns - before)
    drops = [turn for turn, count in enumerate(dropped) if count]
    assert len(drops) >= 2 and all(count > 1 for count in dropped if count)
    assert all(sizes[turn] <= KEPT_SHARE * budget for turn in drops)
    assert max(sizes) > 0.9 * budget


def test_a_turn_that_cannot_fit_is_refused_and_changes_nothing(engine: Engine):
    conversation, _ = talk(engine, 2, history_tokens=600)
    before = conversation.messages
    with pytest.raises(BadInputError, match=r"take \d+ tokens of a budget of 600: shorten them or raise"):
        conversation.stream("word " * 600)
    assert conversation.messages == before and conversation.dropped_turns == 0
    assert conversation.ask("Short?").text is not None


def test_what_is_not_finished_is_not_said(engine: Engine):
    conversation, _ = talk(engine, 1)
    before = conversation.messages
    deltas = conversation.stream("Cut off")
    next(deltas)
    deltas.close()  # type: ignore[attr-defined]
    assert conversation.messages == before
    cancel = Event()
    cancel.set()
    assert conversation.ask("Cancelled", cancel=cancel).finish_reason is FinishReason.CANCELLED
    assert conversation.messages == before
    conversation.clear()
    assert conversation.messages == [{"role": "system", "content": SYSTEM}]


def test_tool_calls_and_their_results_belong_to_one_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine
):
    call = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
    with Engine.open(artifact_with_template(TEMPLATE, tmp_path)) as thinking:
        say(thinking, monkeypatch, f"hm</think>Look.{call}{call}", "</think>Done.", "</think>Bye.")
        conversation = Conversation(thinking, tools=TOOLS)
        assert len(conversation.ask("Look it up").tool_calls) == 2
        for wrong in ([], ["one"], "ab", ["one", "two", "three"]):
            with pytest.raises(BadInputError, match="has 2 tool calls"):
                conversation.give_tool_results(wrong)
        assert conversation.give_tool_results(["one", "two"]).text == "Done."
        asked = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
        assert conversation.messages == [
            {"role": "user", "content": "Look it up"},
            {"role": "assistant", "content": "Look.", "reasoning_content": "hm", "tool_calls": [asked, asked]},
            {"role": "tool", "name": "f", "content": "one"},
            {"role": "tool", "name": "f", "content": "two"},
            {"role": "assistant", "content": "Done.", "reasoning_content": ""},
        ]
        with pytest.raises(BadInputError, match="has 0 tool calls"):
            conversation.give_tool_results(["one"])
        conversation.history_tokens = 60
        conversation.ask("And now?")
        assert [message["role"] for message in conversation.messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    "budget",
    [
        {"history_tokens": 0},
        {"history_tokens": 5000},
        {"history_tokens": True},
        {"answer_tokens": 4096},
        {"answer_tokens": 0},
        {"answer_tokens": 1.5},
    ],
    ids=str,
)
def test_impossible_budgets(engine: Engine, budget: dict[str, Any]):
    with pytest.raises(BadInputError, match=r"the context of 4096 tokens leaves|_tokens must be"):
        Conversation(engine, **budget)


def test_the_budget_is_the_context_without_the_answer(engine: Engine, int8: Path):
    assert Conversation(engine).history_tokens == engine.context_length - 512
    with Engine.open(int8, EngineConfig(max_context=64)) as small:
        assert Conversation(small).history_tokens == 32
    assert Conversation(engine, answer_tokens=100).history_tokens == engine.context_length - 100
