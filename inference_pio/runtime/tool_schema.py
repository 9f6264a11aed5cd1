"""What the JSON schemas of tools say about the types of parameters, for dialects that write every value as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inference_pio.artifact.strict_json import parse_json

ParameterTypes = Mapping[str, Mapping[str, frozenset[str]]]
"""Function name -> parameter name -> names of JSON types."""

_PYTHON_WORDS = {"true": True, "false": False}


def parameter_types(tools: Sequence[Mapping[str, Any]] | None) -> ParameterTypes:
    """The types of every parameter that `tools` describe; what is described in another way has none."""
    found = {}
    for tool in tools or ():
        function = tool.get("function", tool)
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            properties = _mapping(_mapping(function.get("parameters")).get("properties"))
            found[function["name"]] = {str(name): _types(schema) for name, schema in properties.items()}
    return found


def typed(text: str, types: frozenset[str]) -> Any:
    """`text` as a value of one of `types`; the text itself where a text is allowed, or none of them fits."""
    if "null" in types and text.strip().lower() in ("null", "none"):
        return None
    if not types or "string" in types:
        return text
    if "boolean" in types and text.strip().lower() in _PYTHON_WORDS:
        return _PYTHON_WORDS[text.strip().lower()]
    try:
        value = parse_json(text)
    except ValueError:
        return text
    return next((found for kind in sorted(types) if (found := _as(value, kind)) is not None), text)


def _as(value: Any, kind: str) -> Any:
    """The value when it is of this type, else None."""
    if isinstance(value, bool):
        return None  # which JSON does not take for a number
    if kind == "integer":
        whole = isinstance(value, float) and value.is_integer()
        return int(value) if whole or isinstance(value, int) else None
    kinds: dict[str, Any] = {"number": (int, float), "object": dict, "array": list}
    return value if kind in kinds and isinstance(value, kinds[kind]) else None


def _types(schema: Any) -> frozenset[str]:
    schema = _mapping(schema)
    stated = schema.get("type")
    names = {stated} if isinstance(stated, str) else {name for name in _list(stated) if isinstance(name, str)}
    for key in ("anyOf", "oneOf"):
        names |= {name for choice in _list(schema.get(key)) for name in _types(choice)}
    return frozenset(names)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()
