"""A budget of thinking: the end of the reasoning is forced after so many tokens, and then the model goes on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_pio.errors import BadInputError
from inference_pio.runtime import Engine, SamplingParams
from inference_pio.runtime.conversation import Conversation
from inference_pio.runtime.thinking_budget import ThinkingBudget
from inference_pio.runtime.tokenizer import Tokenizer
from inference_pio.tiny import tiny_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))
from chat_cases import TEMPLATE, artifact_with_template

USER = [{"role": "user", "content": "hi"}]
GREEDY = SamplingParams(max_new_tokens=40, temperature=0, ignore_eos=True)
FREE = -1


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine.open(artifact_with_template(TEMPLATE, tmp_path_factory.mktemp("thinking"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(tiny_checkpoint("qwen3"))


def forced(budget: ThinkingBudget, tokens: list[int]) -> list[int]:
    """What a budget says before each token of an answer that would be `tokens`; FREE where it says nothing."""
    said, left = [], list(tokens)
    while left:
        token = budget.next_token()
        said.append(FREE if token is None else token)
        budget.add(left.pop(0) if token is None else token)
    return said


@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_an_opened_reasoning_ends_after_its_tokens(tokenizer: Tokenizer, tokens: int):
    close, words = tokenizer.encode("</think>"), tokenizer.encode("a b c d e f g h i j k l")
    assert forced(ThinkingBudget(tokens, True, tokenizer), words) == [
        *[FREE] * tokens,
        *close,
        *[FREE] * (len(words) - tokens),
    ]


def test_the_tokens_that_open_the_reasoning_do_not_count(tokenizer: Tokenizer):
    opening, close = tokenizer.encode("<think>"), tokenizer.encode("</think>")
    words = tokenizer.encode("a b c d e f g h i j k l")
    said = forced(ThinkingBudget(2, False, tokenizer), [*opening, *words])
    assert said[len(opening) + 2 :][: len(close)] == close
    assert said[: len(opening) + 2] == [FREE] * (len(opening) + 2)


@pytest.mark.parametrize(("opened", "start"), [(True, "hm</think>"), (False, "a <think> b")])
def test_what_is_no_reasoning_is_not_limited(tokenizer: Tokenizer, opened: bool, start: str):
    budget = len(tokenizer.encode(start)) if opened else 0
    tokens = tokenizer.encode(f"{start} a b c d e f g h i j k l")
    assert set(forced(ThinkingBudget(budget, opened, tokenizer), tokens)) == {FREE}


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_the_answer_goes_on(engine: Engine, budget: int):
    """As if the model had written the forced tokens itself; the tiny model never closes its reasoning."""
    free = engine.chat(USER, GREEDY)
    result = engine.chat(USER, GREEDY, thinking_budget=budget)
    close = engine.tokenizer.encode("</think>", add_special_tokens=False)
    head = [*free.token_ids[:budget], *close]
    assert list(result.token_ids[: len(head)]) == head
    prompt = [*engine.chat_tokens(USER), *head]
    rest = SamplingParams(max_new_tokens=40 - len(head), temperature=0, ignore_eos=True)
    assert result.token_ids[len(head) :] == engine.generate(prompt, rest).token_ids
    assert result.reasoning == engine.tokenizer.decode(list(free.token_ids[:budget])).strip()
    assert result.text and free.text == ""


def test_a_budget_that_is_not_reached_changes_nothing(engine: Engine):
    assert engine.chat(USER, GREEDY, thinking_budget=40).token_ids == engine.chat(USER, GREEDY).token_ids


def test_a_conversation_has_one(engine: Engine):
    talk = Conversation(engine, params=GREEDY, thinking_budget=3)
    assert talk.ask("hi").token_ids == engine.chat(USER, GREEDY, thinking_budget=3).token_ids


def test_penalties_count_forced_tokens(engine: Engine):
    """A frequency penalty beyond all logits forbids every token of the answer, the forced ones too."""
    params = SamplingParams(max_new_tokens=40, temperature=0, ignore_eos=True, frequency_penalty=1e4)
    close = engine.tokenizer.encode("</think>", add_special_tokens=False)
    found = engine.chat(USER, params, thinking_budget=0).token_ids
    assert list(found[: len(close)]) == close
    assert not set(found[len(close) :]) & set(close)


def test_where_there_is_no_reasoning_it_is_refused(engine: Engine, tiny_artifact):
    with pytest.raises(BadInputError, match="thinking is off"):
        engine.chat(USER, thinking=False, thinking_budget=5)
    with pytest.raises(BadInputError, match="thinking_budget must be"):
        engine.chat(USER, thinking_budget=-1)
    with Engine.open(tiny_artifact("int8")) as plain, pytest.raises(BadInputError, match="shows no reasoning"):
        plain.chat(USER, thinking_budget=5)
