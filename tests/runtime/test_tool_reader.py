"""Tool calls leave the text of an answer, however it is cut into pieces; what is malformed stays in it, as it was."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_pio.runtime.result import ToolCall
from inference_pio.runtime.tool_dialects import CallParser, parse_json_call, parse_pairs_call, parse_xml_call
from inference_pio.runtime.tool_reader import ToolCallReader


def call(name: str, arguments: str = "{}") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def read(pieces: list[str], parse: CallParser = parse_json_call) -> tuple[str, list[ToolCall], list[str]]:
    reader = ToolCallReader(parse, {})
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
    assert read(list(f"So: {xml}"), parse_xml_call) == ("So:", [ToolCall("run", {"code": value})], [])
    pairs = f"<tool_call>run\n<arg_key>code</arg_key>\n<arg_value>{value}</arg_value>\n</tool_call>"
    assert read(list(f"{pairs}{pairs}"), parse_pairs_call) == ("", [ToolCall("run", {"code": value})] * 2, [])


def test_text_is_given_out_as_soon_as_it_is_certain():
    reader = ToolCallReader(parse_json_call, {})
    assert [reader.push(piece) for piece in ("Hi", " ", "you <", "b> ", "<tool_", "box>", "\n", "<tool_call>{")] == [
        *("Hi", "", " you", " <b>", "", " <tool_box>", "", "")
    ]
    assert reader.push('"name": "f"}</tool_call>') == "" and [one.name for one in reader.calls] == ["f"]
    assert reader.push(" !") == " !" and reader.finish() == ""


PARTS = st.sampled_from(
    [*("a", " ", "\n", "<tool_call>", "</tool_call>", "{", '"', "<tool"), call("f"), call("g", '{"s": "</tool_call>"}')]
)


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(PARTS, max_size=10), cuts=st.lists(st.integers(0, 200), max_size=8))
def test_pieces_make_no_difference(parts: list[str], cuts: list[int]):
    answer = "".join(parts)
    places = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    pieces = [answer[start:stop] for start, stop in itertools.pairwise(places)]
    whole = read([answer])
    assert read(pieces) == whole == read(list(answer))
    if not whole[1]:
        assert whole[0] == answer
