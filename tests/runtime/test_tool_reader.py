"""Tool calls leave the text of an answer, however it is cut into pieces; what is malformed stays in it, as it was."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_pio.runtime.result import ToolCall
from inference_pio.runtime.tool_dialects import GLM, HERMES, QWEN_CODER, ToolDialect
from inference_pio.runtime.tool_reader import ToolCallReader


def call(name: str, arguments: str = "{}") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def read(pieces: list[str], dialect: ToolDialect = HERMES) -> tuple[str, list[ToolCall], list[str]]:
    reader = ToolCallReader(dialect, {})
    text = "".join([*map(reader.push, pieces), reader.finish()])
    return text, reader.calls, reader.problems


def names(answer: str) -> tuple[str, list[str], int]:
    text, calls, problems = read([answer])
    assert read(list(answer)) == (text, calls, problems)
    return text, [one.name for one in calls], len(problems)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", ("", [], 0)),
        ("Hello  \n", ("Hello  \n", [], 0)),
        ("a <tool b </tool_call> c", ("a <tool b </tool_call> c", [], 0)),
        (call("f"), ("", ["f"], 0)),
        (f"I look.\n\n{call('f')}\n", ("I look.", ["f"], 0)),
        (f"\n{call('f')}\n{call('g')}\n ", ("", ["f", "g"], 0)),
        (f"{call('f')}\nDone.", ("Done.", ["f"], 0)),
        (f"One {call('f')}\n{call('g')} two. ", ("One two.", ["f", "g"], 0)),
        ("x <tool_call>nothing</tool_call> y", ("x <tool_call>nothing</tool_call> y", [], 1)),
        (f"<tool_call>{{</tool_call>\n{call('g')}", ("<tool_call>{</tool_call>", ["g"], 1)),
        (f"{call('f')} <tool_call>[]</tool_call>", ("<tool_call>[]</tool_call>", ["f"], 1)),
        ('Go <tool_call>{"name": "f"}', ('Go <tool_call>{"name": "f"}', [], 1)),
        (call("f", '{"s": "</tool_call>"}'), ("", ["f"], 0)),
        (call("f", '{"s": "<tool_call></tool_call></tool_call>"}') + call("g"), ("", ["f", "g"], 0)),
        (f'<tool_call>{{"name": "f</tool_call>\n{call("g")} z', ('<tool_call>{"name": "f</tool_call> z', ["g"], 1)),
    ],
)
def test_answers(answer: str, expected: tuple[str, list[str], int]):
    assert names(answer) == expected


def test_a_problem_says_which_call_and_why():
    answer = f"{call('f')}<tool_call>[]</tool_call>{call('g')}<tool_call>{{"
    assert read([answer])[2] == [
        "tool call 2 is malformed: it is not a JSON object",
        "tool call 4 is malformed: it is not closed",
    ]
    assert read(['<tool_call>{"name": "</tool_call>'])[2] == [
        "tool call 1 is malformed: it is not valid JSON (Unterminated string starting at at character 9)"
    ]


def test_the_other_dialects():
    value = "if a </tool_call> b:\n    pass"
    xml = f"<tool_call>\n<function=run>\n<parameter=code>\n{value}\n</parameter>\n</function>\n</tool_call>"
    assert read(list(f"So: {xml}"), QWEN_CODER) == ("So:", [ToolCall("run", {"code": value})], [])
    pairs = f"<tool_call>run\n<arg_key>code</arg_key>\n<arg_value>{value}</arg_value>\n</tool_call>"
    assert read(list(f"{pairs}{pairs}"), GLM) == ("", [ToolCall("run", {"code": value})] * 2, [])


def test_text_is_given_out_as_soon_as_it_is_certain():
    reader = ToolCallReader(HERMES, {})
    assert [reader.push(piece) for piece in ("Hi", " ", "you <", "b> ", "<tool_", "box>", "\n", "<tool_call>{")] == [
        *("Hi", "", " you", " <b>", "", " <tool_box>", "", "")
    ]
    assert reader.push('"name": "f"}</tool_call>') == "" and [one.name for one in reader.calls] == ["f"]
    assert reader.push(" !") == " !" and reader.finish() == ""


FUNCTION = "<function=run>\n<parameter=code>\na </function> b\n</parameter>\n</function>"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (FUNCTION, ""),
        (f"{FUNCTION}\n</tool_call>", ""),
        (f"Look.\n{FUNCTION}\n</tool_call>\nDone.", "Look.\nDone."),
        (f"<tool_call>\n{FUNCTION}\n</tool_call>", ""),
        (f"{FUNCTION} </tool", "</tool"),
    ],
)
def test_coder_models_may_leave_out_the_tag_in_front(answer: str, text: str):
    assert read([answer], QWEN_CODER) == (text, [ToolCall("run", {"code": "a </function> b"})], [])
    assert read(list(answer), QWEN_CODER) == read([answer], QWEN_CODER)


def test_a_bare_function_that_is_malformed_stays_in_the_text():
    answer = f"Write <function=f> so </function> and {FUNCTION}"
    text, calls, problems = read(list(answer), QWEN_CODER)
    assert (text, len(calls)) == ("Write <function=f> so </function> and", 1)
    assert problems == ["tool call 1 is malformed: it does not end with </function>"]


def test_the_other_dialects_know_no_bare_functions():
    assert read([FUNCTION], HERMES) == (FUNCTION, [], []) == read([FUNCTION], GLM)


TAGS = ("<tool_call>", "</tool_call>", "<function=", "</function>", "<tool")
CALLS = (call("f"), call("g", '{"s": "</tool_call>"}'), FUNCTION)
PARTS = st.sampled_from([*("a", " ", "\n", "{", '"'), *TAGS, *CALLS])


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(PARTS, max_size=10), cuts=st.lists(st.integers(0, 200), max_size=8))
def test_pieces_make_no_difference(parts: list[str], cuts: list[int]):
    answer = "".join(parts)
    places = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    pieces = [answer[start:stop] for start, stop in itertools.pairwise(places)]
    for dialect in (HERMES, QWEN_CODER, GLM):
        whole = read([answer], dialect)
        assert read(pieces, dialect) == whole == read(list(answer), dialect)
        if not whole[1]:
            assert whole[0] == answer
