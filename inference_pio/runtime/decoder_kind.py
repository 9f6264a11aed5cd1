"""How far a tokenizer's decoder lets the text of a part of the tokens be known before the rest is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference_pio.errors import BadInputError

# Steps that treat every token alone, but for the first of all and for runs of byte tokens.
_TOKENWISE = {"Replace", "Metaspace", "ByteFallback"}
# Steps that make one text of all tokens; what follows them sees that text.
_JOINING = {"Fuse", "ByteLevel"}


@dataclass(frozen=True)
class DecoderKind:
    """What matters of a decoder to whoever decodes an answer while it grows.

    `streamable`: more tokens only add to the text, but for an incomplete character at its end and for
    runs of byte tokens. `byte_fallback`: a run of tokens such as <0xE2> is decoded as a whole, and one wrong byte
    in it changes all of the run's text. `joins_with_spaces`: even an empty token shows, by the space before it.
    """

    streamable: bool
    byte_fallback: bool
    joins_with_spaces: bool

    def is_byte(self, token: str) -> bool:
        """Whether a token stands for a byte, or is spelled nearly so."""
        return self.byte_fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def decoder_kind(state: Mapping[str, Any] | None) -> DecoderKind:
    """The kind of the `decoder` object of a tokenizer.json; None joins tokens with spaces.

    Raises BadInputError for one that strips the end of the text, which the tokenizers library cannot do soundly: it
    ends the program when there is too little to strip.
    """
    steps = _flat(state)
    joined, streamable = False, True
    for step in steps:
        name = step.get("type")
        if name in _JOINING:
            joined = True
        elif name == "Strip":
            if step.get("stop") != 0:
                raise BadInputError("tokenizer.json has a decoder that strips the end of a text: set its stop to 0")
        else:
            streamable &= name in _TOKENWISE and not joined
    byte_fallback = any(step.get("type") == "ByteFallback" for step in steps)
    return DecoderKind(streamable, byte_fallback, joins_with_spaces=state is None)


def _flat(state: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if state is None:
        return []
    if state.get("type") == "Sequence":
        return [step for part in state["decoders"] for step in _flat(part)]
    return [state]
