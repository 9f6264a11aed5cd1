"""Reasoning kept apart from the answer: what stands between `<think>` and `</think>` at its beginning."""

from __future__ import annotations

from inference_pio.runtime.markers import certain_length

OPEN, CLOSE = "<think>", "</think>"


class ReasoningSplitter:
    """Splits an answer that arrives in pieces into reasoning and text.

    `opened` says that the prompt ended inside the reasoning already. Only the beginning of an answer can be reasoning;
    the same words later on are text. White space around the reasoning belongs to neither.
    """

    def __init__(self, opened: bool) -> None:
        self.found = opened
        """Whether the answer has reasoning, be it empty."""
        self._waiting = not opened
        self._inside = opened
        self._begun = False
        self._trim = False
        self._held = ""

    @property
    def inside(self) -> bool:
        """Whether the text so far ends inside the reasoning."""
        return self._inside

    def push(self, piece: str) -> tuple[str, str]:
        """Add text; the reasoning and the text that are certain now."""
        self._held += piece
        if self._waiting:
            self._look_for_beginning()
        if self._waiting:
            return "", ""
        reasoning = self._reasoning() if self._inside else ""
        return reasoning, "" if self._inside else self._text()

    def finish(self) -> tuple[str, str]:
        """What was held back, when no more text comes: reasoning that was never closed stays reasoning."""
        rest, self._held = self._held, ""
        if self._inside:
            return self._started(rest).rstrip(), ""
        return "", rest

    def _look_for_beginning(self) -> None:
        start = self._held.lstrip()
        if start.startswith(OPEN):
            self._waiting, self._inside, self.found = False, True, True
            self._held = start[len(OPEN) :]
        elif not OPEN.startswith(start):
            self._waiting = False

    def _reasoning(self) -> str:
        end = self._held.find(CLOSE)
        if end >= 0:
            piece, self._held = self._held[:end].rstrip(), self._held[end + len(CLOSE) :]
            self._inside, self._trim = False, True
        else:
            end = certain_length(self._held, CLOSE)
            piece, self._held = self._held[:end], self._held[end:]
        return self._started(piece)

    def _started(self, piece: str) -> str:
        """Reasoning without the white space that it starts with."""
        piece = piece if self._begun else piece.lstrip()
        self._begun = self._begun or bool(piece)
        return piece

    def _text(self) -> str:
        text, self._held = self._held, ""
        if self._trim:
            text = text.lstrip()
            self._trim = not text
        return text
