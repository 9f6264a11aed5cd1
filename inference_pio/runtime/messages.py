"""Checks conversations and tools, and makes of them the plain copies that a chat template may see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inference_pio.errors import BadInputError

EXAMPLE = '[{"role": "user", "content": "..."}]'

# Names that a message's reasoning goes by; templates read the first.
_REASONING = ("reasoning_content", "thinking", "reasoning")


def checked_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A conversation as plain copies, without fields that are None, reasoning under every name templates read.

    Raises BadInputError unless it is a list, not empty, of mappings with a role and a content: a text or a list of
    parts. Only a message with tool calls may lack the content.
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        raise BadInputError(f"messages must be a list such as {EXAMPLE}")
    return [_checked_message(message, f"message {index}") for index, message in enumerate(messages)]


def checked_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[Any] | None:
    """Tool descriptions as plain copies; raises BadInputError unless they are a list of JSON schemas."""
    if tools is None:
        return None
    if not isinstance(tools, (list, tuple)) or not all(isinstance(tool, Mapping) for tool in tools):
        raise BadInputError("tools must be a list of JSON schemas: describe each with a mapping")
    return [plain(tool, f"tool {index}") for index, tool in enumerate(tools)]


def plain(value: Any, where: str) -> Any:
    """A copy of JSON-like data made of Python's own types alone, whose methods the sandbox knows.

    Raises BadInputError for anything else and for data nested too deeply.
    """
    try:
        return _plain(value)
    except RecursionError:
        raise BadInputError(f"{where} is nested too deeply for a chat template") from None
    except TypeError as error:
        raise BadInputError(f"{where} holds {error}, which a chat template cannot take: pass JSON values") from None


def _checked_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise BadInputError(f"{where} is not a mapping: messages must be a list such as {EXAMPLE}")
    copy = {key: value for key, value in plain(message, where).items() if value is not None}
    if not isinstance(copy.get("role"), str):
        raise BadInputError(f"{where} has no role: messages must be a list such as {EXAMPLE}")
    content = copy.get("content")
    if content is None and not copy.get("tool_calls"):
        raise BadInputError(f"{where} has no content: messages must be a list such as {EXAMPLE}")
    parts = isinstance(content, list) and all(isinstance(part, (dict, str)) for part in content)
    if content is not None and not isinstance(content, str) and not parts:
        raise BadInputError(f"{where} has a content that is neither text nor a list of parts")
    reasoning = next((copy[name] for name in _REASONING if name in copy), None)
    if reasoning is not None:
        copy = {"thinking": reasoning, **copy, "reasoning_content": reasoning}
    return copy


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    # Of a subclass, such as an enum, these take the value alone.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    raise TypeError(f"a {type(value).__name__}")
