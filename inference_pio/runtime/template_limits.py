"""How much work and text a chat template may make: templates come with checkpoints and are not trusted."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sized, ValuesView
from typing import Any

from jinja2.exceptions import SecurityError

MAX_TEXT = 16 << 20
"""Characters that a text may have, the rendered one too; a container counts as its items and 8 for each."""

MAX_WORK = 2 << 20
"""Steps of one rendering: one per item of a loop and per 64 characters that are read or made, 16 per call."""

_CALL = 16


class Meter:
    """Counts what one rendering does; raises jinja2's SecurityError at the first step beyond a limit."""

    def __init__(self) -> None:
        self._left = MAX_WORK

    def spend(self, steps: int) -> None:
        """Count steps of work."""
        self._left -= steps
        if self._left < 0:
            raise SecurityError(f"it takes more than {MAX_WORK} steps")

    def call(self) -> None:
        """Count a call."""
        self.spend(_CALL)

    def allow(self, characters: int) -> None:
        """Count text that is about to be made."""
        if characters > MAX_TEXT:
            raise SecurityError(f"it makes a text or list of more than {MAX_TEXT} characters")
        self.spend(characters // 64 + 1)

    def made(self, value: Any) -> Any:
        """Count a text or container that was made; returns it."""
        if isinstance(value, (str, bytes, list, tuple, dict)):
            self.allow(self.size(value))
        return value

    def read(self, value: Any) -> Any:
        """Count a text or container that an operation goes through once; returns it."""
        if isinstance(value, (str, bytes, list, tuple, dict)):
            self.spend(self.size(value) // 64)
        return value

    def iterated(self, value: Any) -> Any:
        """Count the items of what a loop goes through, now or as they come; returns it or its items."""
        if isinstance(value, Sized):
            self.spend(len(value))
            return value
        return self._counted(value) if isinstance(value, Iterator) else value

    def bounded(self, pieces: Iterable[str]) -> Iterator[str]:
        """The pieces of a text, counted as they come."""
        size = 0
        for piece in pieces:
            size += len(piece)
            if size > MAX_TEXT:
                raise SecurityError(f"it makes a text of more than {MAX_TEXT} characters")
            self.spend(len(piece) // 64 + 1)
            yield piece

    def size(self, value: Any) -> int:
        """Characters of a value's text, roughly; shared parts count wherever they stand, but are visited once."""
        return self._size(value, {})

    def _size(self, value: Any, known: dict[int, int]) -> int:
        if isinstance(value, (str, bytes)):
            return len(value)
        parts = _parts(value)
        if parts is None:
            return 8
        if id(value) not in known:
            self.spend(1)
            known[id(value)] = 8 + sum(8 + self._size(part, known) for part in parts)
        return known[id(value)]

    def _counted(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            self.spend(1)
            yield item


def _parts(value: Any) -> Iterable[Any] | None:
    """What a container's text is made of; None for anything else."""
    if isinstance(value, Mapping):
        return [part for pair in value.items() for part in pair]
    if isinstance(value, (list, tuple, set, frozenset, ItemsView, ValuesView)):
        return value
    return None
