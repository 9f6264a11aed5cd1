"""Token ids to text while they arrive: never half a character, never the beginning of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from inference_pio.runtime.stop_strings import StopMatcher
from inference_pio.runtime.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"

# Tokens in the window from which on older ones are let go.
_LONG = 8


class StreamDecoder:
    """Decodes one answer. `stopped` turns true when a stop string appears; the text ends before it."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._text = _GrowingText(tokenizer)
        self._matcher = StopMatcher(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has appeared."""
        return self._matcher.stopped

    def push(self, token_id: int) -> str:
        """Add a token; the text that is certain now, and nothing once `stopped`."""
        return "" if self.stopped else self._matcher.push(self._text.push(token_id))

    def finish(self) -> str:
        """The rest of the text; call it once, after the last token."""
        if self.stopped:
            return ""
        rest = self._matcher.push(self._text.finish())
        return rest if self.stopped else rest + self._matcher.finish()


class _GrowingText:
    """The text of a growing list of tokens, in pieces that add up to the tokenizer's text of all of them.

    Only a window of tokens is decoded: those that may still change, and a few before them as context. Certain is all
    of its text but a U+FFFD at the end: an incomplete UTF-8 sequence always shows as one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._kind = tokenizer.decoder_kind
        self._window: list[int] = []
        self._given = 0

    def push(self, token_id: int) -> str:
        token = self._tokenizer.id_to_token(token_id)
        if token is None or token_id in self._tokenizer.special_ids or self._adds_nothing(token):
            return ""
        self._window.append(token_id)
        if not self._kind.streamable or self._kind.is_byte(token):
            # The end of a run of byte tokens decides about its beginning; waiting for it costs nothing per token.
            return ""
        text = self._tokenizer.decode(self._window)
        certain = len(text) - text.endswith(REPLACEMENT)
        piece = text[self._given : certain]
        self._given = max(self._given, certain)
        if len(self._window) >= _LONG:
            self._shorten(text)
        return piece

    def finish(self) -> str:
        return self._tokenizer.decode(self._window)[self._given :]

    def _adds_nothing(self, token: str) -> bool:
        """Whether an empty token can be left out: it must not fill the window, but may end a run of byte tokens."""
        if token or not self._window or not self._kind.streamable or self._kind.joins_with_spaces:
            return False
        return not self._kind.is_byte(self._tokenizer.id_to_token(self._window[-1]) or "")

    def _shorten(self, text: str) -> None:
        """Let tokens of the older half go, at a place where the newer ones alone end in the same text.

        A place inside a UTF-8 sequence does not: its halves show as more characters than the whole. The space that
        decoders drop at the beginning may be missing between the two parts; the newer one shows that this is over by
        having any text at all.
        """
        waiting = len(text) - self._given
        for place in range(len(self._window) // 2, len(self._window)):
            first = self._tokenizer.id_to_token(self._window[place])
            if first is None or self._kind.is_byte(first):
                continue
            newer = self._tokenizer.decode(self._window[place:])
            if not newer or not text.endswith(newer):
                continue
            older = self._tokenizer.decode(self._window[:place])
            if len(older) + len(newer) <= len(text) and text.startswith(older):
                del self._window[:place]
                self._given = len(newer) - waiting
                return
