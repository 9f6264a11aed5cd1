"""Token ids to text while they arrive: never half a character, never the beginning of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from inference_pio.runtime.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"
MAX_PENDING = 16
"""Tokens after which a run of undecodable bytes is cut, so that the cost of a token stays bounded."""


class StreamDecoder:
    """Decodes one answer. `stopped` turns true when a stop string appears; the text ends before it."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._settled = 0
        self._emitted = 0
        self._held = ""

    def push(self, token_id: int) -> str:
        """Add a token; the text that is certain now."""
        if self.stopped:
            return ""
        self._ids.append(token_id)
        text = self._tokenizer.decode(self._ids)
        certain = text.rstrip(REPLACEMENT)
        certain = text[: max(len(certain), len(text) - 3)]
        piece, self._emitted = certain[self._emitted :], max(self._emitted, len(certain))
        if certain == text:
            self._settle(len(self._ids))
        elif len(self._ids) - self._settled > MAX_PENDING:
            self._cut(text)
        return self._release(piece)

    def finish(self) -> str:
        """The rest of the text; call it once, after the last token."""
        if self.stopped:
            return ""
        rest = self._release(self._tokenizer.decode(self._ids)[self._emitted :])
        if self.stopped:
            return rest
        rest, self._held = rest + self._held, ""
        return rest

    def _settle(self, count: int) -> None:
        """Keep only the tokens since the last settled place as context for those to come."""
        del self._ids[: self._settled]
        self._settled = count - self._settled
        self._emitted = len(self._tokenizer.decode(self._ids))

    def _cut(self, text: str) -> None:
        """Settle inside a run of undecodable bytes, where decoding the two parts alone changes nothing."""
        for place in range(len(self._ids) - 1, self._settled, -1):
            left = self._tokenizer.decode(self._ids[:place])
            if left + self._tokenizer.decode(self._ids[place:]) == text and len(left) <= self._emitted:
                self._ids, self._settled, self._emitted = self._ids[place:], 0, self._emitted - len(left)
                return

    def _release(self, piece: str) -> str:
        """`piece` behind what was held, up to a stop string or what may become one."""
        text, self._held = self._held + piece, ""
        places = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if places:
            self.stopped = True
            return text[: min(places)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
