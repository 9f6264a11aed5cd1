"""Values and names from foreign files, made safe and short enough to stand in an error message."""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Collection

LISTED_NAMES = 8


def _shortener() -> reprlib.Repr:
    short = reprlib.Repr()
    short.maxstring = short.maxother = 120
    short.maxlong = 40
    short.maxlist = short.maxdict = 4
    short.maxlevel = 3
    return short


_SHORT = _shortener()


def printable(value: object) -> str:
    """A quoted form of at most about 120 characters; control characters and lone surrogates are escaped."""
    return _SHORT.repr(value)


def listed(names: Collection[str]) -> str:
    """The first eight names, and how many more there are."""
    first = ", ".join(printable(name) for name in itertools.islice(names, LISTED_NAMES))
    more = len(names) - LISTED_NAMES
    return f"{first} and {more} more" if more > 0 else first
