"""Chats of an engine: the switch for thinking reaches the template; reasoning and calls come apart from the text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_pio.errors import BadInputError
from inference_pio.runtime import Engine, SamplingParams, ToolCall
from inference_pio.runtime.chat_template import ChatTemplate

sys.path.insert(0, str(Path(__file__).parents[1]))
from chat_cases import TEMPLATE, TOOLS, artifact_with_template, say

USER = [{"role": "user", "content": "hi"}]
GREEDY = SamplingParams(max_new_tokens=12, temperature=0, ignore_eos=True)
CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact_with_template(TEMPLATE, tmp_path_factory.mktemp("thinking"))


@pytest.fixture
def engine(artifact: Path) -> Iterator[Engine]:
    with Engine.open(artifact) as opened:
        yield opened


def test_the_switch_reaches_the_prompt(engine: Engine):
    def prompt(thinking: bool | None) -> str:
        return engine.tokenizer.decode(engine.chat_tokens(USER, thinking=thinking), skip_special_tokens=False)

    assert prompt(True) == prompt(None)
    assert prompt(True).endswith("<|im_start|>assistant\n<think>\n")
    assert prompt(False).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_what_follows_an_opened_prompt_is_reasoning(engine: Engine):
    """The tiny model never closes it."""
    whole = engine.generate(engine.chat_tokens(USER, thinking=True), GREEDY)
    result = engine.chat(USER, GREEDY, thinking=True)
    assert (result.text, result.reasoning) == ("", whole.text.strip()) and whole.text.strip()
    assert result.token_ids == whole.token_ids
    without = engine.chat(USER, GREEDY, thinking=False)
    assert without.reasoning is None
    assert without.text == engine.generate(engine.chat_tokens(USER, thinking=False), GREEDY).text != ""


def test_deltas_add_up(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    say(engine, monkeypatch, f"I think.\n</think>\n\nLook: {CALL}\n")
    deltas = list(engine.stream_chat(USER, tools=TOOLS))
    result = deltas[-1].result
    assert result is not None and [delta.result for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert "".join(delta.reasoning for delta in deltas) == result.reasoning == "I think."
    assert "".join(delta.text for delta in deltas) == result.text == "Look:"
    assert result.tool_calls == (ToolCall("f", {"x": 1}),) and result.tool_call_problems == ()
    assert sum(len(delta.token_ids) for delta in deltas) == len(result.token_ids)


def test_a_malformed_call_is_text_and_reported(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    say(engine, monkeypatch, "</think><tool_call>f()</tool_call>")
    result = engine.chat(USER, tools=TOOLS)
    assert (result.text, result.tool_calls) == ("<tool_call>f()</tool_call>", ())
    assert len(result.tool_call_problems) == 1 and "tool call 1" in result.tool_call_problems[0]


def test_calls_within_reasoning_are_none(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    say(engine, monkeypatch, f"maybe {CALL}</think>no")
    result = engine.chat(USER, tools=TOOLS)
    assert (result.text, result.reasoning, result.tool_calls) == ("no", f"maybe {CALL}", ())


def test_without_tools_nothing_is_a_call(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    say(engine, monkeypatch, f"</think>{CALL}")
    result = engine.chat(USER)
    assert (result.text, result.tool_calls) == (CALL, ())


def test_schemas_type_the_values(monkeypatch: pytest.MonkeyPatch, artifact: Path):
    tool = {"function": {"name": "f", "parameters": {"properties": {"n": {"type": "integer"}}}}}
    xml = "<tool_call>\n<function=f>\n<parameter=n>\n7\n</parameter>\n</function>\n</tool_call>"
    with Engine.open(artifact) as engine:
        engine._prompts._chat_template = ChatTemplate("{{ messages[0].content }}{# <function= <tool_call> #}", {})
        say(engine, monkeypatch, xml)
        assert engine.chat(USER, tools=[tool]).tool_calls == (ToolCall("f", {"n": 7}),)


def test_a_template_without_a_switch_refuses_it(tiny_artifact):
    with Engine.open(tiny_artifact("int8")) as engine:
        for thinking in (True, False):
            with pytest.raises(BadInputError, match="no switch for thinking"):
                engine.chat(USER, thinking=thinking)
        assert engine.chat(USER, GREEDY).reasoning is None


@pytest.mark.parametrize("thinking", ["yes", 1])
def test_a_switch_is_true_or_false(engine: Engine, thinking: object):
    with pytest.raises(BadInputError, match="thinking must be True, False or None"):
        engine.chat(USER, thinking=thinking)  # type: ignore[arg-type]


def test_closing_the_stream_gives_the_buffers_back(engine: Engine):
    deltas = engine.stream_chat(USER, GREEDY)
    next(deltas)
    assert not engine._sequences.idle
    deltas.close()  # type: ignore[attr-defined]
    assert engine._sequences.idle


@pytest.mark.parametrize(
    ("source", "switch", "reasons", "calls"),
    [
        ("{{ messages }}", None, False, False),
        ("{% if enable_thinking is defined %}<think>{% endif %}</think>", "enable_thinking", True, False),
        ("{% if thinking %}x{% endif %}<tool_call>", "thinking", False, True),
        ("{% set enable_thinking = true %}{{ enable_thinking }}", None, False, False),
        ("{{ 'enable_thinking' }}{{ messages[0].thinking }}", None, False, False),
    ],
)
def test_what_a_template_tells(source: str, switch: str | None, reasons: bool, calls: bool):
    found = ChatTemplate(source, {}).format
    assert (found.switch, found.reasons, found.dialect is not None) == (switch, reasons, calls)


def test_the_template_for_tools_counts_as_well():
    assert ChatTemplate("{{ messages }}", {}, "{{ tools }}<tool_call>").format.dialect is not None
