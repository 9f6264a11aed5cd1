"""Tool calls as Qwen3, Qwen3-Coder and GLM write them, and everything that is none."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_pio.runtime.result import ToolCall
from inference_pio.runtime.tool_dialects import (
    GLM,
    HERMES,
    QWEN_CODER,
    MalformedCallError,
    ToolDialect,
    UnfinishedCallError,
    find_dialect,
    parse_json_call,
    parse_pairs_call,
    parse_xml_call,
)

TYPES = {"f": {"n": frozenset({"integer"}), "o": frozenset({"object"}), "s": frozenset({"string"})}}


@pytest.mark.parametrize(
    ("template", "dialect"),
    [
        ('... <tool_call>\\n{"name": <function-name>, "arguments": ...}\\n</tool_call>', HERMES),
        ("<tool_call>\\n<function=' + tool_call.name + '>", QWEN_CODER),
        ("<tool_call>{function-name}<arg_key>{arg-key-1}</arg_key>", GLM),
        ("{{ message.content }}", None),
        ("[TOOL_CALLS]", None),
    ],
)
def test_the_template_tells_the_dialect(template: str, dialect: ToolDialect | None):
    assert find_dialect(template) is dialect


def test_json():
    call = parse_json_call('\n{"name": "f", "arguments": {"n": 1, "o": {"x": [null, "ä\\n"]}}}\n', TYPES)
    assert call == ToolCall("f", {"n": 1, "o": {"x": [None, "ä\n"]}})
    assert parse_json_call('{"name": "f"}', {}) == ToolCall("f", {})
    assert parse_json_call('{"name": "f", "arguments": {"n": "1"}}', TYPES).arguments == {"n": "1"}


def test_xml():
    body = "\n<function=f>\n<parameter=n>\n12\n</parameter>\n<parameter=s>\n  <b>\n\n</parameter>\n</function>\n"
    assert parse_xml_call(body, TYPES) == ToolCall("f", {"n": 12, "s": "  <b>\n"})
    assert parse_xml_call("<function=f><parameter=s>1</parameter></function>", TYPES).arguments == {"s": "1"}
    assert parse_xml_call("<function=g></function>", {}) == ToolCall("g", {})
    assert parse_xml_call("<function=g><parameter=n>\n12\n</parameter></function>", TYPES).arguments == {"n": "12"}


def test_closing_tags_inside_a_value_of_xml_belong_to_it():
    value = "a </parameter> b </function> c </tool_call> <parameter=x>"
    body = f"<function=f>\n<parameter=s>\n{value}\n</parameter>\n</function>"
    assert parse_xml_call(body, TYPES).arguments == {"s": value}


def test_pairs():
    body = 'f\n<arg_key>n</arg_key>\n<arg_value>12</arg_value>\n<arg_key>o</arg_key><arg_value>{"x": 1}</arg_value>\n'
    assert parse_pairs_call(body, TYPES) == ToolCall("f", {"n": 12, "o": {"x": 1}})
    assert parse_pairs_call("\nf\n", {}) == ToolCall("f", {})
    body = "f<arg_key>s</arg_key><arg_value> a\n</arg_value> <arg_k </arg_value>"
    assert parse_pairs_call(body, TYPES).arguments == {"s": " a\n</arg_value> <arg_k "}


@pytest.mark.parametrize(
    ("parser", "body", "words"),
    [
        (parse_json_call, "", "not valid JSON"),
        (parse_json_call, "{'name': 'f'}", "not valid JSON"),
        (parse_json_call, '{"name": "f"} and more', "not valid JSON"),
        (parse_json_call, '{"name": "f", "name": "g"}', "stands twice"),
        (parse_json_call, '{"name": "f", "arguments": {"x": NaN}}', "NaN is not a JSON number"),
        (parse_json_call, '{"name": "f", "arguments": ' + "[" * 5000, "nested"),
        (parse_json_call, '{"name": "f", "arguments": {"x": "\\ud800"}}', "surrogate"),
        (parse_json_call, '["f"]', "not a JSON object"),
        (parse_json_call, '{"arguments": {}}', "None is not the name of a function"),
        (parse_json_call, '{"name": "a b"}', "'a b' is not the name"),
        (parse_json_call, '{"name": "f", "arguments": "{}"}', "arguments are not a JSON object"),
        (parse_xml_call, "f()", "does not begin with"),
        (parse_xml_call, "<function=>", "'' is not the name"),
        (parse_xml_call, "<function=f>", "does not end with"),
        (parse_xml_call, "<function=f></function> and more", "does not end with"),
        (parse_xml_call, "<function=f> words </function>", "does not end with"),
        (parse_xml_call, "<function=f><parameter=>1</parameter></function>", "has no name"),
        (
            parse_xml_call,
            "<function=f><parameter=a>1</parameter><parameter=a>2</parameter></function>",
            "'a' is given twice",
        ),
        (parse_pairs_call, "", "'' is not the name"),
        (parse_pairs_call, "f and words", "is not the name"),
        (parse_pairs_call, "<arg_key>k</arg_key><arg_value>v</arg_value>", "'' is not the name"),
        (parse_pairs_call, "f<arg_key>k</arg_key>", "not pairs"),
        (parse_pairs_call, "f<arg_key>k<arg_value>v</arg_value>", "not pairs"),
        (
            parse_pairs_call,
            "f<arg_key>k</arg_key><arg_value>v</arg_value><arg_key>k</arg_key><arg_value>v</arg_value>",
            "'k' is given twice",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)[:40]),
)
def test_malformed(parser: Any, body: str, words: str):
    with pytest.raises(MalformedCallError, match=words) as caught:
        parser(body, TYPES)
    assert not isinstance(caught.value, UnfinishedCallError)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("parser", "body"),
    [
        (parse_json_call, '{"name": "f", "arguments": {"s": "a '),
        (parse_xml_call, "<function=f><parameter=s>a "),
        (parse_xml_call, "<function=f><parameter=s>a </parameter> b"),
        (parse_pairs_call, "f<arg_key>s</arg_key><arg_value>a "),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)[:40]),
)
def test_a_body_that_ends_inside_a_value_is_unfinished(parser: Any, body: str):
    with pytest.raises(UnfinishedCallError):
        parser(body, TYPES)


TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=12)
VALUES = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | TEXTS, st.lists, max_leaves=4)


@settings(max_examples=100, deadline=None)
@given(arguments=st.dictionaries(TEXTS, VALUES, max_size=3))
def test_json_says_what_was_written(arguments: dict[str, Any]):
    body = json.dumps({"name": "f", "arguments": arguments}, ensure_ascii=False)
    assert parse_json_call(body, TYPES) == ToolCall("f", arguments)


@settings(max_examples=100, deadline=None)
@given(value=st.text(alphabet="a<>/\n =b&", max_size=20))
def test_raw_values_say_what_was_written(value: str):
    xml = f"<function=g>\n<parameter=p>\n{value}\n</parameter>\n</function>"
    assert parse_xml_call(xml, {}).arguments == {"p": value}
    pairs = f"g<arg_key>p</arg_key>\n<arg_value>{value}</arg_value>"
    assert parse_pairs_call(pairs, {}).arguments == {"p": value}


PIECES = st.sampled_from(["<function=", "<parameter=", "</parameter>", "</function>", "<arg_key>", *'fp>{"}:[ '])


@settings(max_examples=300, deadline=None)
@given(pieces=st.lists(PIECES, max_size=10))
def test_nothing_else_is_ever_raised(pieces: list[str]):
    for parser in (parse_json_call, parse_xml_call, parse_pairs_call):
        with contextlib.suppress(MalformedCallError):
            assert isinstance(parser("".join(pieces), TYPES), ToolCall)
