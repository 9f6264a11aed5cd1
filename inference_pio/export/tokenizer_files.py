"""The tokenizer's files are checked before a long export, not after it."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer

from inference_pio.artifact.tokenizer_json import refuse_bad_merges
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
    for file, text in texts.items():
        if file.endswith(".json"):
            _check_object(file, text)
    content = texts[name].encode()
    refuse_bad_merges(content)
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except ValueError as error:
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


def _check_object(name: str, text: str) -> None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise BadInputError(f"{name} is not valid JSON: fetch it again") from None
    if not isinstance(value, dict):
        raise BadInputError(f"{name} must hold a JSON object: fetch it again")
