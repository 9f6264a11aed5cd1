"""Text to token ids and back, exactly as the checkpoint's tokenizer.json says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference_pio.artifact.tokenizer_json import refuse_bad_merges
from inference_pio.errors import BadInputError
from inference_pio.runtime.decoder_kind import DecoderKind, decoder_kind
from inference_pio.runtime.values import encodable

if TYPE_CHECKING:
    import tokenizers

# The named special tokens of a tokenizer_config.json, as transformers knows them.
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_EXTRA_TOKENS = ("extra_special_tokens", "additional_special_tokens")


class Tokenizer:
    """A loaded tokenizer; never truncates, pads or cleans up spaces. Threads may share it."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        decoder = backend.decoder
        self._decoder_kind = decoder_kind(None if decoder is None else json.loads(decoder.__getstate__()))

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Load `tokenizer.json` and, where there is one, `tokenizer_config.json` of a folder.

        The config's special tokens that the vocabulary holds become special ones. What is put around a text is the
        post-processor's business alone: `add_bos_token` and `add_eos_token` count for nothing beside a
        tokenizer.json. Both as in transformers. Raises BadInputError that names the file when one is unusable.
        """
        from tokenizers import Tokenizer as Backend

        path = folder / "tokenizer.json"
        content = _read(path)
        refuse_bad_merges(content)
        try:
            backend = Backend.from_buffer(content)
        except ValueError as error:
            raise BadInputError(f"{path} is not a usable tokenizer ({_cause(error)}): restore it") from None
        backend.no_truncation()
        backend.no_padding()
        config_path = folder / "tokenizer_config.json"
        if config_path.exists():
            _apply_config(backend, read_config(config_path))
        return cls(backend)

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added tokens included; the model's vocabulary may be padded beyond it."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of the special tokens, which `decode` leaves out by default."""
        return self._special_ids

    def token_to_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it; None when there is none."""
        found: int | None = self._backend.token_to_id(token)
        return found

    def id_to_token(self, token_id: int) -> str | None:
        """A token as the vocabulary spells it; None for an id without one."""
        found: str | None = self._backend.id_to_token(_checked_id(token_id))
        return found

    @property
    def decoder_kind(self) -> DecoderKind:
        """What has to be known to decode a part of an answer."""
        return self._decoder_kind

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; special tokens around it as the post-processor adds them.

        Raises BadInputError when `text` is not a string or holds lone surrogates, and when the vocabulary
        has neither a token nor a substitute for a part of it.
        """
        if not isinstance(text, str):
            raise BadInputError(f"the tokenizer needs text, not {type(text).__name__}")
        if not encodable(text):
            raise BadInputError("the text holds half of a surrogate pair and is not valid Unicode: mend it")
        try:
            ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        except Exception as error:  # noqa: BLE001 (the library raises nothing more specific)
            raise BadInputError(f"tokenizer.json cannot encode this text ({_cause(error)}): restore the file") from None
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids; ids without a token count for nothing.

        Bytes that are not valid UTF-8 become U+FFFD. Raises BadInputError for ids that are no integers or
        lie outside 0 to 2**32 - 1.
        """
        try:
            text: str = self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        except (OverflowError, TypeError):
            raise BadInputError("token ids must be a list of integers from 0 to 2**32 - 1") from None
        return text


def read_config(path: Path) -> dict[str, Any]:
    """A tokenizer_config.json as a dict; raises BadInputError that names the file when it is unusable."""
    try:
        config = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path} is not valid JSON ({_cause(error)}): restore it") from None
    if not isinstance(config, dict):
        raise BadInputError(f"{path} must hold a JSON object, not {type(config).__name__}: restore it")
    for name in NAMED_TOKENS:
        token_text(config.get(name), f"{path}: {name}")
    return config


def token_text(value: Any, where: str) -> str | None:
    """The text of a special token entry: a string, or an object with `content`; None when it is unset."""
    text = value.get("content") if isinstance(value, dict) else value
    if value is not None and not isinstance(text, str):
        raise BadInputError(f"{where} must be a string or an object with a content string: restore it")
    return text


def _apply_config(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    from tokenizers import AddedToken

    named = {token_text(config.get(name), name) for name in NAMED_TOKENS}
    extra = set(_extra_tokens(config))
    added = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    for text in sorted(text for text in named | extra if text):
        token = added.get(text, AddedToken(text, special=True))
        known = text in added or backend.token_to_id(text) is not None
        # An added token that is only listed as an extra one stays what tokenizer.json says.
        if known and (text in named or text not in added):
            token.special = True
            backend.add_special_tokens([token])


def _extra_tokens(config: Mapping[str, Any]) -> Iterable[str | None]:
    for name in _EXTRA_TOKENS:
        entries = config.get(name) or []
        if isinstance(entries, dict):
            entries = list(entries.values())
        if not isinstance(entries, list):
            raise BadInputError(f"tokenizer_config.json: {name} must be a list of tokens: restore the file")
        for entry in entries:
            yield token_text(entry, f"tokenizer_config.json: {name}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInputError(f"{path} cannot be read ({error.strerror}): restore it") from None


def _checked_id(token_id: int) -> int:
    if not 0 <= token_id < 2**32:
        raise BadInputError(f"token id {token_id} lies outside 0 to 2**32 - 1")
    return token_id


def _cause(error: BaseException) -> str:
    """The first line of an error, short enough for a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
