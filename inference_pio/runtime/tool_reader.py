"""Takes tool calls out of an answer that arrives in pieces."""

from __future__ import annotations

from collections.abc import Iterator

from inference_pio.runtime.markers import certain_length
from inference_pio.runtime.result import ToolCall
from inference_pio.runtime.tool_dialects import CLOSE, OPEN, MalformedCallError, ToolDialect, UnfinishedCallError
from inference_pio.runtime.tool_schema import ParameterTypes

_OPEN_END = "it is not closed"


class ToolCallReader:
    """Passes text on and keeps the calls in it; a malformed call is text, and `problems` says what is wrong with it.

    White space in front of a call belongs to it, and so does that at either end of an answer with calls.
    """

    def __init__(self, dialect: ToolDialect, types: ParameterTypes) -> None:
        self.calls: list[ToolCall] = []
        self.problems: list[str] = []
        self._parse, self._types = dialect.parse, types
        self._tags = [(OPEN, CLOSE), *([dialect.bare] if dialect.bare else [])]
        self._held, self._searched, self._unfinished = "", 0, _OPEN_END
        self._anything = False

    def push(self, piece: str) -> str:
        """Add text; the text outside calls that is certain now."""
        self._held += piece
        return "".join(self._certain(final=False))

    def finish(self) -> str:
        """What was held back, when no more text comes; a call that was not closed is malformed."""
        return "".join(self._certain(final=True))

    def _certain(self, final: bool) -> Iterator[str]:
        while found := [(start, tags) for tags in self._tags if (start := self._held.find(tags[0])) >= 0]:
            start, (opening, closing) = min(found)
            yield self._take(len(self._held[:start].rstrip()))
            left = self._call(opening, closing, final)
            if left is None:
                return
            yield left
        if final and self.calls and not self._held.strip():
            self._held = ""
        openings = [opening for opening, _ in self._tags]
        yield self._take(len(self._held) if final else certain_length(self._held, *openings))

    def _call(self, opening: str, closing: str, final: bool) -> str | None:
        """Read the call that comes next: the text that it leaves, or None while its end is not certain."""
        bare = closing != CLOSE
        start = self._held.index(opening)
        body = start + len(opening)
        while (end := self._held.find(closing, max(self._searched, body))) >= 0:
            behind = end + len(closing)
            stop = self._behind_stray_end(behind, final) if bare else behind
            if stop is None:
                return None
            self._searched = end + 1
            try:
                inner = self._held[start:behind] if bare else self._held[body:end]
                self.calls.append(self._parse(inner, self._types))
            except UnfinishedCallError as error:
                self._unfinished = str(error)
            except MalformedCallError as error:
                return self._leave(str(error), body, closing)
            else:
                self._held = self._held[stop:]
                self._searched, self._unfinished = 0, _OPEN_END
                return ""
        return self._leave(self._unfinished, body, closing) if final else None

    def _behind_stray_end(self, place: int, final: bool) -> int | None:
        """Where a closing tag without its opening one ends, else `place`; None while it may be one."""
        rest = self._held[place:].lstrip()
        if rest.startswith(CLOSE):
            return len(self._held) - len(rest) + len(CLOSE)
        return None if not final and CLOSE.startswith(rest) else place

    def _leave(self, problem: str, body: int, closing: str) -> str:
        """Let a malformed call go as text, up to its first closing tag: what follows may be a sound one."""
        self.problems.append(f"tool call {len(self.calls) + len(self.problems) + 1} is malformed: {problem}")
        end = self._held.find(closing, body)
        self._searched, self._unfinished = 0, _OPEN_END
        return self._take(len(self._held) if end < 0 else end + len(closing))

    def _take(self, size: int) -> str:
        """The first characters of what is held, without white space in front of the first text after a call."""
        text, self._held = self._held[:size], self._held[size:]
        if self.calls and not self._anything:
            text = text.lstrip()
        self._anything = self._anything or bool(text)
        return text
