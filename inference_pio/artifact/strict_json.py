"""JSON from strangers: UTF-8, no duplicate keys, no NaN or infinity, bounded nesting, one kind of error.

The syntax is RFC 8259; what that document leaves open (duplicate names, huge numbers, unpaired
surrogates) is refused here, because two readers may take such a file for two different things.
"""

from __future__ import annotations

import json
import math
from typing import Any

from inference_pio.artifact.printable import printable
from inference_pio.errors import BadInputError

MAX_DEPTH = 64
# Longer than any integer a checkpoint can mean, short enough that converting it costs nothing.
MAX_DIGITS = 100


def parse_json_object(raw: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `raw`; `where` names the source in errors. Raises `BadInputError`."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise BadInputError(f"{where} is not UTF-8 at byte {fault.start}; save it as UTF-8") from fault
    try:
        value = parse_json(text)
    except _TooDeepError as fault:
        raise BadInputError(f"{where} is {fault}") from fault
    except _NoTextError as fault:
        raise BadInputError(f"{where} holds {fault}") from fault
    except ValueError as fault:
        raise BadInputError(f"{where} is not valid JSON: {fault}; mend it or download it again") from fault
    if not isinstance(value, dict):
        raise BadInputError(f"{where} must hold a JSON object, not {type(value).__name__}")
    return value


def parse_json(text: str) -> Any:
    """The JSON value in `text`; raises ValueError, of which json.JSONDecodeError is for wrong syntax."""
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_int=_bounded_int,
            parse_float=_finite_float,
            parse_constant=_no_constant,
        )
    except RecursionError as fault:
        raise _TooDeepError(f"nested more than {MAX_DEPTH} levels deep") from fault
    if _is_deep(value):
        raise _TooDeepError(f"nested more than {MAX_DEPTH} levels deep")
    # Only escapes can bring unpaired surrogates into text that was UTF-8.
    if "\\u" in text and not _is_text(value):
        raise _NoTextError("an unpaired surrogate escape, which is not text")
    return value


class _TooDeepError(ValueError):
    pass


class _NoTextError(ValueError):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {printable(key)} stands twice in one object")
            seen.add(key)
    return values


def _bounded_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {printable(text)} is too large")
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _is_deep(value: object) -> bool:
    level: list[Any] = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
    return bool(level)


def _is_text(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
