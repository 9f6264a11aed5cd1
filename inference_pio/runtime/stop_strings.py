"""Finds the first stop string in a text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Passes text on up to the stop string that is complete first; of several that end together the longest counts.

    What may still become a stop string is held back. Each character costs one step of the Knuth-Morris-Pratt
    automaton (Fast pattern matching in strings, 1977) per stop string, however the text is cut into pieces.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.stopped = False
        self._stop = [(text, _borders(text)) for text in stop]
        self._matched = [0] * len(self._stop)
        self._held = ""

    def push(self, piece: str) -> str:
        """Add text; what is certain now. Nothing any more once `stopped`."""
        if self.stopped:
            return ""
        if not self._stop:
            return piece
        text = self._held + piece
        for end in range(len(self._held) + 1, len(text) + 1):
            complete = self._advance(text[end - 1])
            if complete:
                self.stopped, self._held = True, ""
                return text[: end - complete]
        certain = len(text) - max(self._matched)
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held

    def _advance(self, character: str) -> int:
        """Follow one character; the length of the longest stop string that it completes, else 0."""
        complete = 0
        for index, (stop, borders) in enumerate(self._stop):
            matched = self._matched[index]
            while matched and stop[matched] != character:
                matched = borders[matched - 1]
            if stop[matched] == character:
                matched += 1
            if matched == len(stop):
                complete = max(complete, matched)
            self._matched[index] = matched
        return complete


def _borders(text: str) -> list[int]:
    """For every prefix of `text` the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(text)
    length = 0
    for index in range(1, len(text)):
        while length and text[length] != text[index]:
            length = borders[length - 1]
        if text[length] == text[index]:
            length += 1
        borders[index] = length
    return borders
