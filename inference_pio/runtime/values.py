"""Checks of single values from callers and files; each returns the value as a plain Python type.

None passes through as "not set". Everything else that is unusable raises BadInputError naming the field.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from inference_pio.errors import BadInputError

MAX_TOKEN_ID = 2**31 - 1


def checked_int(name: str, value: Any, *, least: int, most: int | None = None) -> int | None:
    """An integer of any kind (numpy's too, but no bool) within [least, most]."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise BadInputError(f"{name} must be an integer, not {_shown(value)}")
    number = int(value)
    if number < least or (most is not None and number > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise BadInputError(f"{name} must be {bounds}, not {_shown(number)}")
    return number


def checked_float(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
) -> float | None:
    """A finite real number (no bool) that is >= least, > above and <= most, as far as those are given."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BadInputError(f"{name} must be a number, not {_shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadInputError(f"{name} must be finite, not {_shown(value)}")
    low_ok = (least is None or number >= least) and (above is None or number > above)
    if not low_ok or (most is not None and number > most):
        low = f"at least {least:g}" if least is not None else f"above {above:g}"
        high = "" if most is None else f" and at most {most:g}"
        raise BadInputError(f"{name} must be {low}{high}, not {_shown(value)}")
    return number


def checked_bool(name: str, value: Any) -> bool | None:
    """True or False, nothing that merely counts as such."""
    if value is None or isinstance(value, bool):
        return value
    raise BadInputError(f"{name} must be true or false, not {_shown(value)}")


def checked_strings(name: str, value: Any) -> tuple[str, ...] | None:
    """One string or a list of them, none empty and each encodable as UTF-8."""
    if value is None:
        return None
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, (list, tuple)) or not all(isinstance(item, str) for item in strings):
        raise BadInputError(f"{name} must be a string or a list of strings, not {_shown(value)}")
    if not all(strings):
        raise BadInputError(f"{name} must not hold an empty string: it would end every text at once")
    for item in strings:
        if not encodable(item):
            raise BadInputError(f"{name} holds {_shown(item)}, which is not valid Unicode text")
    return tuple(strings)


def checked_token_ids(name: str, value: Any) -> tuple[int, ...] | None:
    """Token ids from any iterable of integers, each from 0 to 2**31 - 1."""
    if value is None:
        return None
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise BadInputError(f"{name} must be a list of token ids, not {_shown(value)}")
    ids = tuple(checked_int(f"{name}[{index}]", item, least=0, most=MAX_TOKEN_ID) for index, item in enumerate(value))
    if None in ids:
        raise BadInputError(f"{name} must be a list of token ids without None")
    return tuple(item for item in ids if item is not None)


def encodable(text: str) -> bool:
    """Whether the text is free of lone surrogates, so that it has a UTF-8 form."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    """A short form of a value for a message; a huge integer or string must not fill a screen."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = ascii(value)
    except ValueError:
        # Python refuses to spell out integers of thousands of digits, also inside a list.
        return f"such a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
