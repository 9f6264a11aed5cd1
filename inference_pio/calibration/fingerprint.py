"""Recognises a text again from a few thousand hashes, so that a model is not judged on what it was calibrated on.

A text is reduced to its letters and digits, cut into all its runs of 48 of them (shingles), and the 4,096 distinct
shingles with the smallest hashes stand for it: a bottom-k sketch (Broder, "On the resemblance and containment of
documents", 1997; Bar-Yossef et al., 2002). Layout, case, accents and punctuation play no part.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference_pio.errors import BadInputError

SHINGLE = 48
KEPT = 4096
MATERIAL = 0.05
"""A larger share in common, of either text, makes them overlap: quotations and licence notices stay below."""
PART = 1 << 20
"""Characters that are hashed at a time."""
# A line break or a letter as JSON spells it, so that a JSON file and the texts in it are the same.
_ESCAPE = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|[nrt])")
_NO_LETTER = re.compile(r"[\W_]+")
_HEX = re.compile(r"(?:[0-9a-f]{16})*")


@dataclass(frozen=True, eq=False)
class TextFingerprint:
    """`hashes` uint64, ascending: the smallest of the text's shingles; `shingles` is how many the text has in all.

    A text with fewer letters and digits than a shingle has an empty fingerprint, in which nothing is ever found.
    """

    hashes: np.ndarray
    shingles: int

    @classmethod
    def of(cls, text: str) -> TextFingerprint:
        """The fingerprint of one text."""
        return cls.of_documents([text])

    @classmethod
    def of_documents(cls, documents: Iterable[str]) -> TextFingerprint:
        """The fingerprint of texts that follow each other."""
        kept, shingles = np.empty(0, np.uint64), 0
        for hashes in _shingle_hashes(documents):
            shingles += len(hashes)
            smaller = hashes if len(kept) < KEPT else hashes[hashes < kept[-1]]
            kept = np.union1d(kept, smaller)[:KEPT]
        return cls(kept, shingles)

    def shared(self, text: str) -> float:
        """Share of the fingerprint's shingles that `text` has too, from 0 to 1."""
        return self._found(text)[0]

    def overlaps(self, text: str) -> bool:
        """Whether more than 5 % of either text stands in the other (of `text`: as far as the sample can tell)."""
        share, of_text = self._found(text)
        return max(share, of_text) > MATERIAL

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads: the hashes as one text of 16 hexadecimal digits each."""
        return {"shingle": SHINGLE, "shingles": self.shingles, "hashes": self.hashes.astype(">u8").tobytes().hex()}

    @classmethod
    def from_json(cls, value: object) -> TextFingerprint:
        """The inverse of `to_json`; raises BadInputError for anything else."""
        fault = "the fingerprint of the calibration text is damaged: calibrate again"
        if not isinstance(value, Mapping) or set(value) != {"shingle", "shingles", "hashes"}:
            raise BadInputError(fault)
        shingles, text = value["shingles"], value["hashes"]
        if value["shingle"] != SHINGLE or type(shingles) is not int or not isinstance(text, str):
            raise BadInputError(fault)
        if len(text) > KEPT * 16 or not _HEX.fullmatch(text):
            raise BadInputError(fault)
        hashes = np.frombuffer(bytes.fromhex(text), dtype=">u8").astype(np.uint64)
        if shingles < len(hashes) or (shingles > 0) != (len(hashes) > 0) or (hashes[1:] <= hashes[:-1]).any():
            raise BadInputError(fault)
        return cls(hashes, shingles)

    def _found(self, text: str) -> tuple[float, float]:
        """Share of the fingerprint found in `text`, and about the share of `text` that this amounts to."""
        if not len(self.hashes):
            return 0.0, 0.0
        found, length, hits = np.zeros(len(self.hashes), bool), 0, 0
        for hashes in _shingle_hashes([text]):
            places = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
            equal = self.hashes[places] == hashes
            found[places[equal]] = True
            hits += int(equal.sum())
            length += len(hashes)
        # Of the text's shingles that are in the other one, as many are kept as lie below the largest kept hash.
        kept_share = 1.0 if len(self.hashes) < KEPT else (int(self.hashes[-1]) + 1) / 2**64
        return float(found.mean()), min(1.0, hits / kept_share / length) if length else 0.0


def _shingle_hashes(documents: Iterable[str]) -> Iterator[np.ndarray]:
    """uint64 hashes of all shingles of the documents' letters and digits, a part at a time."""
    rest = np.empty(0, np.uint32)
    for document in documents:
        for start in range(0, len(document), PART):
            part = np.frombuffer(_normal(document[start : start + PART]).encode("utf-32-le"), dtype="<u4")
            letters = np.concatenate([rest, part])
            rest = letters[-(SHINGLE - 1) :]
            if len(letters) >= SHINGLE:
                yield _rolling(letters)


def _normal(text: str) -> str:
    """Letters and digits alone, without case, accents, width and other compatible forms; no lone surrogates."""
    text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else "", text)
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
    return _NO_LETTER.sub("", text.casefold())


def _rolling(letters: np.ndarray) -> np.ndarray:
    """Hashes of every run of SHINGLE letters, uint32 [n] -> uint64 [n - SHINGLE + 1].

    Runs of 16 come from doubling (a run of 2k is mixed from its two halves), those of 48 from three runs of 16.
    """
    runs = _mixed(letters.astype(np.uint64))
    for half in (1, 2, 4, 8):
        runs = _mixed(runs[:-half] * np.uint64(0x9E3779B97F4A7C15) + runs[half:])
    count = len(letters) - SHINGLE + 1
    pair = _mixed(runs[:count] * np.uint64(0x9E3779B97F4A7C15) + runs[16 : 16 + count])
    return _mixed(pair * np.uint64(0x9E3779B97F4A7C15) + runs[32 : 32 + count])


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele, Lea and Flood, 2014): a bijection of uint64 that scatters its input."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
