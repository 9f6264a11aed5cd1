"""A limit on the reasoning of an answer: beyond it the end of the reasoning is forced, and generation goes on."""

from __future__ import annotations

from inference_pio.runtime.detokenizer import StreamDecoder
from inference_pio.runtime.reasoning import CLOSE, ReasoningSplitter
from inference_pio.runtime.tokenizer import Tokenizer


class ThinkingBudget:
    """Counts the tokens of one answer's reasoning; after `tokens` of them come those of `</think>`.

    Where the reasoning begins and ends is told by the text, as `ReasoningSplitter` tells it. `opened` says that the
    prompt ended inside the reasoning; else the tokens of `<think>` do not count.
    """

    def __init__(self, tokens: int, opened: bool, tokenizer: Tokenizer) -> None:
        self._left = tokens
        self._decoder = StreamDecoder(tokenizer, ())
        self._splitter = ReasoningSplitter(opened)
        self._closing = tokenizer.encode(CLOSE, add_special_tokens=False)
        self._forced = 0

    def next_token(self) -> int | None:
        """The token that must come now, or None where the model chooses."""
        begun = 0 < self._forced < len(self._closing)
        if not begun and (self._forced or self._left > 0 or not self._splitter.inside):
            return None
        self._forced += 1
        return self._closing[self._forced - 1]

    def add(self, token: int) -> None:
        """Note a token of the answer."""
        if not self._forced:
            self._left -= self._splitter.inside
            self._splitter.push(self._decoder.push(token))
