"""The ways in which models write a tool call between `<tool_call>` and `</tool_call>`.

`find_dialect` goes by the checkpoint's chat template, which shows the model its own calls in its own dialect.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from inference_pio.artifact.printable import printable
from inference_pio.artifact.strict_json import parse_json
from inference_pio.runtime.result import ToolCall
from inference_pio.runtime.tool_schema import ParameterTypes, typed

CallParser = Callable[[str, ParameterTypes], ToolCall]
"""The body of a call -> the call; raises MalformedCallError or, of these, UnfinishedCallError."""

OPEN, CLOSE = "<tool_call>", "</tool_call>"

_NAME = re.compile(r"[^\s<>]{1,256}")
_FUNCTION = re.compile(r"\s*<function=([^>]*)>")
_PARAMETER = re.compile(r"\s*<parameter=([^>]*)>")
_PARAMETER_END = re.compile(r"</parameter>(?=\s*(?:<parameter=|</function>))")
_FUNCTION_END = re.compile(r"\s*</function>\s*")
_KEY = re.compile(r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>", re.DOTALL)
_VALUE_END = re.compile(r"</arg_value>(?=\s*(?:<arg_key>|$))")


class MalformedCallError(ValueError):
    """A body that is no call, and why."""


class UnfinishedCallError(MalformedCallError):
    """A body that ends inside a value, so that the closing tag behind it may have been part of that value."""


@dataclass(frozen=True)
class ToolDialect:
    """A way of writing calls. `mark` stands in the templates of this dialect and in those of none listed before it.

    `bare` are the tags of the body itself where models are known to leave out the ones around it.
    """

    mark: str
    parse: CallParser
    bare: tuple[str, str] | None = None


def find_dialect(template: str) -> ToolDialect | None:
    """The dialect of the calls that a chat template shows; None where it shows none of these."""
    return next((dialect for dialect in DIALECTS if dialect.mark in template), None)


def parse_json_call(body: str, types: ParameterTypes) -> ToolCall:
    """`{"name": ..., "arguments": {...}}`: Hermes, Qwen3 and Qwen3-VL. The values have JSON's own types."""
    try:
        value = parse_json(body)
    except json.JSONDecodeError as error:
        kind = UnfinishedCallError if error.msg.startswith("Unterminated string") else MalformedCallError
        raise kind(f"it is not valid JSON ({error.msg} at character {error.pos})") from None
    except ValueError as error:
        raise MalformedCallError(f"it is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise MalformedCallError("it is not a JSON object")
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        raise MalformedCallError("its arguments are not a JSON object")
    return ToolCall(_checked_name(value.get("name")), arguments)


def parse_xml_call(body: str, types: ParameterTypes) -> ToolCall:
    """`<function=NAME><parameter=P>value</parameter></function>`: Qwen3-Coder. Values are raw text on own lines."""
    function = _FUNCTION.match(body)
    if function is None:
        raise MalformedCallError("it does not begin with <function=NAME>")
    name, place = _checked_name(function[1]), function.end()
    arguments: dict[str, str] = {}
    while parameter := _PARAMETER.match(body, place):
        end = _PARAMETER_END.search(body, parameter.end())
        if end is None:
            raise UnfinishedCallError(f"its parameter {printable(parameter[1])} is not closed")
        value = body[parameter.end() : end.start()].removeprefix("\n").removesuffix("\n")
        _add(arguments, parameter[1].strip(), value)
        place = end.end()
    if not _FUNCTION_END.fullmatch(body, place):
        raise MalformedCallError("it does not end with </function>")
    return _typed_call(name, arguments, types)


def parse_pairs_call(body: str, types: ParameterTypes) -> ToolCall:
    """`name<arg_key>k</arg_key><arg_value>v</arg_value>`: GLM. Texts are raw, other values JSON."""
    first = body.find("<arg_key>")
    name, place = _checked_name(body[: first if first >= 0 else len(body)].strip()), max(first, 0)
    arguments: dict[str, str] = {}
    while first >= 0 and body[place:].strip():
        key = _KEY.match(body, place)
        if key is None:
            raise MalformedCallError("its arguments are not pairs of <arg_key> and <arg_value>")
        end = _VALUE_END.search(body, key.end())
        if end is None:
            raise UnfinishedCallError(f"its argument {printable(key[1])} is not closed")
        _add(arguments, key[1].strip(), body[key.end() : end.start()])
        place = end.end()
    return _typed_call(name, arguments, types)


QWEN_CODER = ToolDialect("<function=", parse_xml_call, bare=("<function=", "</function>"))
GLM = ToolDialect("<arg_key>", parse_pairs_call)
HERMES = ToolDialect(OPEN, parse_json_call)
DIALECTS = (QWEN_CODER, GLM, HERMES)


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise MalformedCallError(f"{printable(name)} is not the name of a function")
    return name


def _add(arguments: dict[str, str], name: str, value: str) -> None:
    if not name:
        raise MalformedCallError("an argument has no name")
    if name in arguments:
        raise MalformedCallError(f"the argument {printable(name)} is given twice")
    arguments[name] = value


def _typed_call(name: str, arguments: dict[str, str], types: ParameterTypes) -> ToolCall:
    known = types.get(name, {})
    return ToolCall(name, {key: typed(value, known.get(key, frozenset())) for key, value in arguments.items()})
