"""A validator for the part of JSON Schema that the manifest's schema uses, so that opening needs no library."""

from __future__ import annotations

import re
from typing import Any

from inference_pio.artifact.printable import printable

TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def validate(value: Any, schema: dict[str, Any], where: str = "manifest") -> str | None:
    """The first thing in `value` that breaks `schema`, or None.

    Knows type, enum, const, minimum, pattern, properties, required, additionalProperties, propertyNames, items and
    minItems. Unlike JSON Schema it takes 1.0 for no integer, because Python does not either.
    """
    return (
        _check_type(value, schema, where)
        or _check_scalar(value, schema, where)
        or _check_object(value, schema, where)
        or _check_array(value, schema, where)
    )


def _check_type(value: Any, schema: dict[str, Any], where: str) -> str | None:
    allowed = schema.get("type")
    names = [allowed] if isinstance(allowed, str) else allowed or list(TYPES)
    for name in names:
        if isinstance(value, TYPES[name]) and not (isinstance(value, bool) and name in ("integer", "number")):
            return None
    return f"{where} must be of type {' or '.join(names)}"


def _check_scalar(value: Any, schema: dict[str, Any], where: str) -> str | None:
    if "const" in schema and value != schema["const"]:
        return f"{where} must be {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} must be one of {', '.join(map(str, schema['enum']))}"
    if "minimum" in schema and isinstance(value, (int, float)) and value < schema["minimum"]:
        return f"{where} must be at least {schema['minimum']}"
    if "pattern" in schema and isinstance(value, str) and not re.search(schema["pattern"], value):
        return f"{where} must match {schema['pattern']}"
    return None


def _check_object(value: Any, schema: dict[str, Any], where: str) -> str | None:
    if not isinstance(value, dict):
        return None
    for key in schema.get("required", ()):
        if key not in value:
            return f"{where} lacks '{key}'"
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for key, item in value.items():
        problem = validate(key, schema["propertyNames"], f"{where}: key") if "propertyNames" in schema else None
        if problem:
            return problem
        if key not in properties and others is False:
            return f"{where} has an unknown entry {printable(key)}"
        rule = properties.get(key, others)
        place = f"{where}.{key}" if key in properties else f"{where}[{printable(key)}]"
        problem = validate(item, rule, place) if isinstance(rule, dict) else None
        if problem:
            return problem
    return None


def _check_array(value: Any, schema: dict[str, Any], where: str) -> str | None:
    if not isinstance(value, list):
        return None
    if len(value) < schema.get("minItems", 0):
        return f"{where} must have at least {schema['minItems']} entries"
    for index, item in enumerate(value):
        problem = validate(item, schema.get("items", {}), f"{where}[{index}]")
        if problem:
            return problem
    return None
