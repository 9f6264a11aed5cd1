"""Takes tool calls out of an answer that arrives in pieces."""

from __future__ import annotations

from collections.abc import Iterator

from inference_pio.runtime.markers import certain_length
from inference_pio.runtime.result import ToolCall
from inference_pio.runtime.tool_dialects import CallParser, MalformedCallError, UnfinishedCallError
from inference_pio.runtime.tool_schema import ParameterTypes

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_OPEN_END = "it is not closed"


class ToolCallReader:
    """Passes text on and keeps the calls in it; a malformed call is text, and `problems` says what is wrong with it.

    White space in front of a call belongs to it, and so does that at either end of an answer with calls.
    """

    def __init__(self, parse: CallParser, types: ParameterTypes) -> None:
        self.calls: list[ToolCall] = []
        self.problems: list[str] = []
        self._parse, self._types = parse, types
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
        while (start := self._held.find(OPEN)) >= 0:
            yield self._take(len(self._held[:start].rstrip()))
            left = self._call(final)
            if left is None:
                return
            yield left
        rest = len(self._held) if final else certain_length(self._held, OPEN)
        if final and self.calls and not self._held.strip():
            self._held, self._searched, self._unfinished = "", 0, _OPEN_END
        yield self._take(min(rest, len(self._held)))

    def _call(self, final: bool) -> str | None:
        """Read the call that comes next: the text that it leaves, or None while its end is not certain."""
        body = self._held.index(OPEN) + len(OPEN)
        while (end := self._held.find(CLOSE, max(self._searched, body))) >= 0:
            self._searched = end + 1
            try:
                self.calls.append(self._parse(self._held[body:end], self._types))
            except UnfinishedCallError as error:
                self._unfinished = str(error)
            except MalformedCallError as error:
                return self._leave(str(error), body)
            else:
                self._held = self._held[end + len(CLOSE) :]
                self._start_anew()
                return ""
        return self._leave(self._unfinished, body) if final else None

    def _leave(self, problem: str, body: int) -> str:
        """Let a malformed call go as text, up to its first closing tag: what follows may be a sound one."""
        self.problems.append(f"tool call {len(self.calls) + len(self.problems) + 1} is malformed: {problem}")
        end = self._held.find(CLOSE, body)
        self._start_anew()
        return self._take(len(self._held) if end < 0 else end + len(CLOSE))

    def _start_anew(self) -> None:
        self._searched, self._unfinished = 0, _OPEN_END

    def _take(self, size: int) -> str:
        """The first characters of what is held, without white space in front of the first text after a call."""
        text, self._held = self._held[:size], self._held[size:]
        if self.calls and not self._anything:
            text = text.lstrip()
        self._anything = self._anything or bool(text)
        return text
