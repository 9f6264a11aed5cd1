"""The tokenizer's files are checked before a long export, not after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.checkpoint.files import read_small
from inference_pio.errors import BadInputError

MAX_BYTES = 256 << 20
"""Above the size of any tokenizer."""


def check_tokenizer(checkpoint: Checkpoint, vocab_size: int) -> None:
    """Raise BadInputError unless the checkpoint has a usable tokenizer.json that fits the vocabulary."""
    texts = {file.name: _text(file) for file in checkpoint.tokenizer_files}
    name = "tokenizer.json"
    if name not in texts:
        raise BadInputError(
            f"{checkpoint.path} has no tokenizer.json: load its tokenizer in transformers and save it again with "
            "save_pretrained, which writes one"
        )
    objects = {file: _object(file, text) for file, text in texts.items() if file.endswith(".json")}
    _check_merges(objects[name])
    try:
        tokenizer = Tokenizer.from_str(texts[name])
    except Exception as error:  # noqa: BLE001 (the library raises nothing more specific)
        raise BadInputError(f"{name} is not a usable tokenizer ({error}): fetch it again") from None
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if not 0 <= highest < vocab_size:
        raise BadInputError(
            f"{name} has token ids up to {highest}, but config.json has a vocabulary of {vocab_size}: "
            "the two belong to different models"
        )


def _text(file: Path) -> str:
    try:
        return read_small(file, MAX_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise BadInputError(f"{file.name} is not UTF-8: fetch it again") from None


def _object(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise BadInputError(f"{name} is not valid JSON: fetch it again") from None
    if not isinstance(value, dict):
        raise BadInputError(f"{name} must hold a JSON object: fetch it again")
    return value


def _check_merges(tokenizer: dict[str, Any]) -> None:
    """Refuse merges whose second part lacks the prefix it should have: the library does not raise, it aborts."""
    model = tokenizer.get("model")
    prefix = model.get("continuing_subword_prefix") if isinstance(model, dict) else None
    merges = model.get("merges") if isinstance(model, dict) else None
    if not prefix or not isinstance(prefix, str) or not isinstance(merges, list):
        return
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        second = parts[-1] if isinstance(parts, list) and parts else None
        if not isinstance(second, str) or not second.startswith(prefix):
            raise BadInputError("tokenizer.json has merges without its continuing_subword_prefix: fetch it again")
