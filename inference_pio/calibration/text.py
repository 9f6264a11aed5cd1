"""Calibration samples: windows of token ids, spread evenly over a user's text or the bundled corpus, and scenes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from inference_pio.artifact.jsonfile import read_json_object
from inference_pio.artifact.printable import printable
from inference_pio.calibration.documents import Document, read_documents
from inference_pio.calibration.fingerprint import TextFingerprint
from inference_pio.calibration.scenes import Picture, Scene, SceneReader
from inference_pio.errors import BadInputError
from inference_pio.graphs.spec import VisionSpec
from inference_pio.runtime.generation_defaults import GenerationDefaults
from inference_pio.runtime.tokenizer import Tokenizer, read_config, token_text

PART = 1 << 18
"""Characters that are tokenized at a time."""


@dataclass(frozen=True)
class CalibrationText:
    """What a model is calibrated on.

    `samples` are int64 token ids, each of exactly the asked length, `scenes` samples that show images and `pictures`
    these images; `sha256` is of the content that they were taken from; `name` is the file's name or "default". Where
    `is_default`, a caller says that the bundled corpus stands in for the user's own text. `fingerprint` (of documents
    without images) and `images` (digests of the others' pixels) are of the whole content, not only of the samples: none
    of it may be verified on.
    """

    samples: tuple[np.ndarray, ...]
    sha256: str
    name: str
    is_default: bool
    fingerprint: TextFingerprint
    scenes: tuple[Scene, ...] = ()
    images: tuple[str, ...] = ()

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Those that the scenes show, each once."""
        return tuple(dict.fromkeys(place.picture for scene in self.scenes for place in scene.places))

    def in_turn(self) -> tuple[np.ndarray | Scene, ...]:
        """Scenes and windows of text in turn, as long as there are both."""
        pairs = zip_longest(self.scenes, self.samples)
        return tuple(sample for pair in pairs for sample in pair if sample is not None)


def read_calibration(
    source: str | Path, folder: Path, samples: int, length: int, vocab_size: int, vision: VisionSpec | None = None
) -> CalibrationText:
    """`samples` windows of `length` tokens from a file, or from the bundled corpus when `source` is "default".

    A file is UTF-8 plain text, or JSON lines (`.jsonl`) of {"text": ...} or {"messages": [...]}, and where there is a
    `vision` tower of examples (`calibration.examples`). Tokenizer, chat template and end-of-text token are those of the
    checkpoint in `folder`; `vocab_size` is the model's. Where there are images, half of the samples show them, or as
    many as one of the two kinds leaves to the other. Raises BadInputError for a source that cannot be read or is too
    short, and for a tokenizer of another model.
    """
    tokenizer = Tokenizer.load(folder)
    source_text = read_documents(source, folder, sees=vision is not None)
    plain = tuple(document for document in source_text.documents if not document.sees)
    stream = _tokens(plain, tokenizer, _end_of_text(folder, tokenizer))
    highest = int(stream.max(initial=-1))
    if highest >= vocab_size:
        raise BadInputError(
            f"the tokenizer in {folder} gives token id {highest}, the model's vocabulary has {vocab_size} entries: "
            "it belongs to another model, restore it"
        )
    scenes, seen = list[Scene](), list[str]()
    if vision is not None and len(plain) < len(source_text.documents):
        reader = SceneReader(folder, vision, tokenizer, max(length // 2, 1))
        scenes, seen = reader.scenes((d for d in source_text.documents if d.sees), length), sorted(reader.seen)
    texts = min(len(stream) // length, samples - min(len(scenes), samples // 2))
    scenes = some(scenes, samples - texts)
    return CalibrationText(
        samples=spread(stream, samples - len(scenes), length, source_text.name),
        sha256=hashlib.sha256("\n".join([source_text.sha256, *seen]).encode()).hexdigest()
        if seen
        else source_text.sha256,
        name=source_text.name,
        is_default=source_text.is_default,
        fingerprint=TextFingerprint.of_documents(document.text for document in plain),
        scenes=tuple(scenes),
        images=tuple(seen),
    )


def some(scenes: Sequence[Scene], count: int) -> list[Scene]:
    """At most `count` of the scenes, at even distances from the first to the last."""
    count = min(count, len(scenes))
    return [scenes[index * (len(scenes) - 1) // max(count - 1, 1)] for index in range(count)]


def spread(stream_T: np.ndarray, samples: int, length: int, name: str) -> tuple[np.ndarray, ...]:
    """Windows at even distances from the stream's first token to its last; none shares a token with another.

    A single one lies in the middle. Raises BadInputError when the stream is too short.
    """
    tokens = len(stream_T)
    if samples == 0:
        return ()
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
