"""Values that a model wrote as text become what the tool's schema says they are."""

from __future__ import annotations

from typing import Any

import pytest

from inference_pio.runtime.tool_schema import parameter_types, typed


def types_of(schema: Any) -> frozenset[str]:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"p": schema}}}}
    return parameter_types([tool])["f"]["p"]


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "integer"}, {"integer"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"string", "null"}),
        ({"oneOf": [{"anyOf": [{"type": "array"}]}, {"type": "object"}]}, {"array", "object"}),
        ({"description": "whatever"}, set()),
        ({"type": 5, "anyOf": "no list"}, set()),
        ("no schema", set()),
    ],
    ids=str,
)
def test_types_of_a_schema(schema: Any, expected: set[str]):
    assert types_of(schema) == expected


def test_a_function_may_stand_by_itself_and_may_lack_anything():
    tools: list[dict[str, Any]] = [
        {"name": "bare", "parameters": {"properties": {"n": {"type": "integer"}}}},
        {"type": "function", "function": {"name": "none"}},
        {"function": {"name": "odd", "parameters": {"properties": [1]}}},
        {"function": "no mapping"},
        {},
    ]
    assert parameter_types(tools) == {"bare": {"n": {"integer"}}, "none": {}, "odd": {}}
    assert parameter_types(None) == {}


@pytest.mark.parametrize(
    ("text", "types", "expected"),
    [
        ("7", "integer", 7),
        ("-7.0", "integer", -7),
        ("7.5", "integer", "7.5"),
        ("seven", "integer", "seven"),
        ("true", "integer", "true"),
        ("7.5", "number", 7.5),
        ("NaN", "number", "NaN"),
        ("1e999", "number", "1e999"),
        ("9" * 200, "integer", "9" * 200),
        ("true", "boolean", True),
        (" False\n", "boolean", False),
        ("1", "boolean", "1"),
        ('{"a": [1, null]}', "object", {"a": [1, None]}),
        ('{"a": 1, "a": 2}', "object", '{"a": 1, "a": 2}'),
        ("[1]", "object", "[1]"),
        ('["a"]', "array", ["a"]),
        ("[" * 100_000, "array", "[" * 100_000),
        ("null", "null string", None),
        ("None", "null integer", None),
        ("null", "string", "null"),
        ("5", "string integer", "5"),
        (" as it is \n", "string", " as it is \n"),
        ("5", "", "5"),
        ("5", "integer number", 5),
        ("5", "color", "5"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_values(text: str, types: str, expected: Any):
    found = typed(text, frozenset(types.split()))
    assert found == expected and type(found) is type(expected)
