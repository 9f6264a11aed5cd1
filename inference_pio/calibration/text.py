"""Calibration text: windows of token ids, spread evenly over a user's text or over the bundled corpus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inference_pio.artifact.jsonfile import read_json_object
from inference_pio.artifact.printable import printable
from inference_pio.calibration.documents import Document, read_documents
from inference_pio.calibration.fingerprint import TextFingerprint
from inference_pio.errors import BadInputError
from inference_pio.runtime.generation_defaults import GenerationDefaults
from inference_pio.runtime.tokenizer import Tokenizer, read_config, token_text
from inference_pio.runtime.values import checked_int

PART = 1 << 18
"""Characters that are tokenized at a time."""


@dataclass(frozen=True)
class CalibrationText:
    """What a model is calibrated on.

    `samples` are int64 token ids, each of exactly the asked length; `sha256` is of the content that they were taken
    from; `name` is the file's name or "default". Where `is_default`, a caller says that the bundled corpus stands in
    for the user's own text. `fingerprint` is of the whole content, not only of the samples: none of it may be verified
    on.
    """

    samples: tuple[np.ndarray, ...]
    sha256: str
    name: str
    is_default: bool
    fingerprint: TextFingerprint


def read_calibration(source: str | Path, folder: Path, samples: int, length: int, vocab_size: int) -> CalibrationText:
    """`samples` windows of `length` tokens from a file, or from the bundled corpus when `source` is "default".

    A file is UTF-8 plain text, or JSON lines (`.jsonl`) of {"text": ...} or {"messages": [...]}. Tokenizer, chat
    template and end-of-text token are those of the checkpoint in `folder`; `vocab_size` is the model's. Raises
    BadInputError for a source that cannot be read or is too short, and for a tokenizer of another model.
    """
    checked_int("samples", samples, least=1)
    checked_int("length", length, least=1)
    tokenizer = Tokenizer.load(folder)
    source_text = read_documents(source, folder)
    stream = _tokens(source_text.documents, tokenizer, _end_of_text(folder, tokenizer))
    highest = int(stream.max(initial=-1))
    if highest >= vocab_size:
        raise BadInputError(
            f"the tokenizer in {folder} gives token id {highest}, the model's vocabulary has {vocab_size} entries: "
            "it belongs to another model, restore it"
        )
    return CalibrationText(
        samples=spread(stream, samples, length, source_text.name),
        sha256=source_text.sha256,
        name=source_text.name,
        is_default=source_text.is_default,
        fingerprint=TextFingerprint.of_documents(document.text for document in source_text.documents),
    )


def spread(stream_T: np.ndarray, samples: int, length: int, name: str) -> tuple[np.ndarray, ...]:
    """Windows at even distances from the stream's first token to its last; none shares a token with another.

    A single one lies in the middle. Raises BadInputError when the stream is too short.
    """
    tokens = len(stream_T)
    if tokens < samples * length:
        raise BadInputError(
            f"found {tokens // length} of {samples} samples of {length} tokens: calibration text {printable(name)} has "
            f"{tokens} tokens, give a longer one or ask for fewer or shorter samples"
        )
    gaps = max(samples - 1, 1)
    first = (tokens - length) // 2 if samples == 1 else 0
    starts = [first + index * (tokens - length) // gaps for index in range(samples)]
    return tuple(stream_T[start : start + length].copy() for start in starts)


def _tokens(documents: tuple[Document, ...], tokenizer: Tokenizer, end: int | None) -> np.ndarray:
    """int64 [tokens]: the documents one after the other, with the end-of-text token between them."""
    pieces: list[np.ndarray] = []
    for document in documents:
        for index, part in enumerate(_parts(document.text)):
            ids = tokenizer.encode(part, add_special_tokens=index == 0 and not document.rendered)
            if index == 0 and ids and pieces and end is not None and pieces[-1][-1] != end:
                pieces.append(np.array([end], dtype=np.int64))
            if ids:
                pieces.append(np.array(ids, dtype=np.int64))
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def _parts(text: str) -> Iterator[str]:
    """The text in parts that end with a line where they can; a tokenizer takes 170 bytes of memory per character."""
    start = 0
    while start < len(text):
        end = min(start + PART, len(text))
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        yield text[start:end]
        start = end


def _end_of_text(folder: Path, tokenizer: Tokenizer) -> int | None:
    """The token that ends a document; None where nothing names one.

    Of several end tokens in a generation config the lowest one: a vocabulary's own end of text comes before the ends
    of turns that chat training added.
    """
    generation = folder / "generation_config.json"
    if generation.exists():
        ends = GenerationDefaults.read(read_json_object(generation)).eos_token_ids
        if ends:
            return min(ends)
    config = folder / "tokenizer_config.json"
    text = token_text(read_config(config).get("eos_token"), f"{config}: eos_token") if config.exists() else None
    return None if text is None else tokenizer.token_to_id(text)
