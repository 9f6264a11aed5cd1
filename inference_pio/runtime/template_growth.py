"""Refuses operations of a chat template whose result would be much larger than their input, before they run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Sized
from typing import Any

from jinja2.exceptions import SecurityError

from inference_pio.runtime.template_limits import Meter

MAX_BITS = 1 << 16
"""Bits that an integer may have."""

MAX_WIDTH = 999
"""Characters that a formatted field, an indentation or a batch may have."""

_PERCENT_WIDE = re.compile(r"%[^a-zA-Z%]*(\*|\d{4})")
_BRACE_WIDE = re.compile(r":[^{}]*\d{4}|\{[^{}]*\{")
_WIDTH_FILTERS = frozenset({"batch", "center", "indent", "round", "slice", "tojson", "truncate"})


def check_operator(meter: Meter, operator: str, left: Any, right: Any) -> None:
    """The operators + * ** and %."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(right, 1) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > MAX_BITS:
            raise SecurityError(f"it makes an integer of more than {MAX_BITS} bits")
    elif operator == "*":
        count, value = (left, right) if isinstance(left, int) else (right, left)
        if isinstance(count, int):
            meter.allow(max(count, 1) * meter.size(value))
    elif operator == "+":
        meter.allow(meter.size(left) + meter.size(right))
    elif operator == "%" and isinstance(left, (str, bytes)):
        check_percent_format(meter, left, [right])


def check_percent_format(meter: Meter, pattern: str | bytes, values: Iterable[Any]) -> None:
    """A printf-like format."""
    text = pattern if isinstance(pattern, str) else pattern.decode("latin-1")
    if _PERCENT_WIDE.search(text):
        raise SecurityError("it formats with a very wide or a computed field")
    _allow_fields(meter, text, text.count("%"), values)


def check_brace_format(meter: Meter, pattern: str, values: Iterable[Any]) -> None:
    """A text's own `format`."""
    text = pattern.replace("{{", "").replace("}}", "")
    if _BRACE_WIDE.search(text):
        raise SecurityError("it formats with a very wide or a computed field")
    _allow_fields(meter, pattern, text.count("{"), values)


def check_method(meter: Meter, owner: str | bytes | int, name: str, values: Sequence[Any]) -> None:
    """A method of a text, bytes or an integer."""
    numbers = [value for value in values if isinstance(value, int)]
    if isinstance(owner, int):
        meter.allow(max(numbers, default=0))
    elif name == "translate":
        raise SecurityError("it calls translate, which chat templates may not")
    elif name == "expandtabs":
        meter.allow(len(owner) * max(numbers, default=8))
    elif name == "replace" and len(values) > 1:
        meter.allow(_replaced(owner, values[0], values[1]))
    elif name == "join" and values:
        meter.allow(meter.size(values[0]) + _length(values[0]) * len(owner))
    elif name in ("center", "ljust", "rjust", "zfill"):
        meter.allow(len(owner) + max(numbers, default=0))
    else:
        meter.allow(len(owner))


def check_filter(meter: Meter, name: str, value: Any, values: Sequence[Any]) -> None:
    """A filter; one that takes a width takes none beyond `MAX_WIDTH`."""
    wide = any(isinstance(item, int) and abs(item) > MAX_WIDTH for item in values)
    if name in _WIDTH_FILTERS and wide:
        raise SecurityError(f"it uses the filter {name} with a very large number")
    if name == "replace" and len(values) > 1:
        meter.allow(_replaced(value, values[0], values[1]))
    elif name == "join":
        meter.allow(meter.size(value) + _length(value) * meter.size(values[0] if values else ""))
    elif name == "format":
        check_percent_format(meter, str(value), values)
    elif name in ("indent", "tojson"):
        steps = [len(item) if isinstance(item, str) else int(item) for item in values if isinstance(item, (str, int))]
        lines = value.count("\n") + 1 if isinstance(value, str) else meter.size(value) // 8
        meter.allow(meter.size(value) + lines * max(steps, default=4))


def _allow_fields(meter: Meter, pattern: str, fields: int, values: Iterable[Any]) -> None:
    meter.allow(len(pattern) + fields * (MAX_WIDTH + sum(meter.size(value) for value in values)))


def _length(value: Any) -> int:
    return len(value) if isinstance(value, Sized) else 0


def _replaced(text: Any, old: Any, new: Any) -> int:
    """The most characters that `text` has after replacing every `old` by `new`."""
    if isinstance(text, str) and isinstance(old, str) and isinstance(new, str):
        return len(text) + text.count(old) * len(new)
    # Bytes, and values that the filter turns into text: an empty `old` fits between all characters.
    texts = [item if isinstance(item, (str, bytes)) else str(item) for item in (text, new)]
    return len(texts[0]) + (len(texts[0]) + 1) * len(texts[1])
