"""Turning what callers pass as prompts into lists of token ids, with clear refusals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from inference_pio.artifact.printable import printable
from inference_pio.errors import BadInputError
from inference_pio.runtime.tokenizer import Tokenizer

Prompt = str | Sequence[int]


def split_prompts(prompts: Any) -> tuple[list[Prompt], bool]:
    """The prompts as a list, and whether the caller passed a single one.

    A string or a sequence of integers is one prompt; a sequence of those is several.
    """
    if isinstance(prompts, str):
        return [prompts], True
    items = _items(prompts)
    if not items or isinstance(items[0], (int, np.integer)):
        return [items], True
    return [item if isinstance(item, str) else _items(item) for item in items], False


def prompt_ids(prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    """The token ids of a prompt, tokenized as the checkpoint's tokenizer does; raises BadInputError when empty."""
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else _items(prompt)
    if not ids:
        raise BadInputError("the prompt is empty: pass at least one token")
    return ids


def checked_ids(ids: Sequence[Any], vocab_size: int, context_length: int) -> list[int]:
    """Token ids as plain integers; raises BadInputError for other types, ids outside and too long a prompt."""
    for position, token in enumerate(ids):
        if isinstance(token, (bool, np.bool_)) or not isinstance(token, (int, np.integer)):
            raise BadInputError(f"token {position} of the prompt is {_shown(token)}, not an integer")
        if not 0 <= token < vocab_size:
            raise BadInputError(
                f"token {position} of the prompt is {token}, outside the vocabulary of {vocab_size} tokens"
            )
    if len(ids) > context_length:
        raise BadInputError(
            f"the prompt has {len(ids)} tokens and the context ends at {context_length}: shorten it, or export with "
            "a larger --context-length if the model allows it"
        )
    return [int(token) for token in ids]


def unpad(ids: Any, attention_mask: Any) -> list[list[int]]:
    """The rows of a right-padded batch without their padding.

    `ids` and `attention_mask` are [B, S]; raises BadInputError for another shape, values other than 0 and 1, rows
    padded on the left or in the middle, and rows without any token.
    """
    try:
        tokens, mask = np.asarray(ids), np.asarray(attention_mask)
    except ValueError:
        raise BadInputError("the rows of a batch differ in length: pad them on the right") from None
    if tokens.ndim != 2 or tokens.shape != mask.shape or tokens.dtype.kind not in "iu":
        raise BadInputError("a batch needs integer token ids and an attention mask of the same shape [rows, tokens]")
    if not np.isin(mask, (0, 1)).all():
        raise BadInputError("the attention mask may hold only 0 and 1")
    lengths = mask.astype(np.int64).sum(axis=1)
    for row, length in enumerate(lengths):
        if not mask[row, :length].all():
            raise BadInputError(f"row {row} of the batch is not padded on the right: put the padding behind the tokens")
        if not length:
            raise BadInputError(f"row {row} of the batch has no tokens")
    return [[int(token) for token in tokens[row, :length]] for row, length in enumerate(lengths)]


def _shown(value: Any) -> str:
    """One line, and a short one; an array would fill a screen."""
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else printable(value)


def _items(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray) and value.ndim in (1, 2):
        return list(value)
    if isinstance(value, (list, tuple)):
        return list(value)
    raise BadInputError(f"a prompt is a string or a list of token ids, not {type(value).__name__}")
