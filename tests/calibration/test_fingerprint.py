"""Fingerprints: copies, excerpts and concatenations are found, other texts are not."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_pio.calibration import fingerprint as module
from inference_pio.calibration.fingerprint import KEPT, SHINGLE, TextFingerprint
from inference_pio.verify.windows import read_text


def prose(seed: int, words: int) -> str:
    """Text of random words with punctuation and line breaks."""
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(800)]
    return "".join(rng.choice(vocabulary) + rng.choice([" ", " ", " ", ", ", ".\n"]) for _ in range(words))


SMALL, LARGE, OTHER = prose(1, 400), prose(2, 30_000), prose(3, 30_000)


@pytest.mark.parametrize("text", [SMALL, LARGE])
def test_a_copy_is_found_whole(text: str) -> None:
    fingerprint = TextFingerprint.of(text)
    assert fingerprint.shared(text) == 1.0
    assert fingerprint.overlaps(text)


@pytest.mark.parametrize("text", [SMALL, LARGE])
def test_an_unrelated_text_shares_nothing(text: str) -> None:
    fingerprint = TextFingerprint.of(text)
    assert fingerprint.shared(OTHER) == 0.0
    assert not fingerprint.overlaps(OTHER)


@pytest.mark.parametrize("start", [0, 50_003, 150_000])
def test_an_excerpt_is_found_though_it_is_a_small_share(start: int) -> None:
    fingerprint = TextFingerprint.of(LARGE)
    excerpt = LARGE[start : start + 4000]
    assert 0 < fingerprint.shared(excerpt) < 0.05
    assert fingerprint.overlaps(excerpt)
    assert fingerprint.overlaps(OTHER[:20_000] + excerpt)


def test_a_small_text_is_found_inside_a_large_one() -> None:
    fingerprint = TextFingerprint.of(SMALL)
    text = OTHER[:100_001] + SMALL + OTHER[100_001:]
    assert fingerprint.shared(text) == 1.0
    assert fingerprint.overlaps(text)


def test_a_quotation_in_a_long_text_is_no_overlap() -> None:
    text = OTHER + LARGE[10_000:11_000]
    assert not TextFingerprint.of(LARGE).overlaps(text)


def test_layout_case_accents_and_punctuation_hide_nothing() -> None:
    text = "Où est l'été? Au café, près de la forêt! " + SMALL
    fingerprint = TextFingerprint.of(text)
    disguised = " ".join(text.upper().split()).replace("É", "E\u0301").replace(",", " ;")
    assert fingerprint.shared(disguised) == 1.0
    assert TextFingerprint.of("日本語の文章を全部で四十八文字以上になるまで書き続ける。" * 3).shared("日本語") == 0.0


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_json_file_is_the_text_in_it(ascii_only: bool) -> None:
    text = 'Grün\n\tund "schön" \\ 本\n' + SMALL.replace(",", "ß").replace(".", "漢字")
    fingerprint = TextFingerprint.of(text)
    assert fingerprint.shared(json.dumps(text, ensure_ascii=ascii_only)) == 1.0


@settings(max_examples=25, deadline=None)
@given(st.integers(SHINGLE + 1, 400), st.lists(st.integers(0, 2000), max_size=6))
def test_parts_and_documents_make_no_difference(part: int, cuts: list[int]) -> None:
    expected = TextFingerprint.of(SMALL)
    borders = [0, *sorted(cuts), len(SMALL)]
    documents = [SMALL[start:end] for start, end in itertools.pairwise(borders)]
    original = module.PART
    try:
        module.PART = part
        found = TextFingerprint.of_documents(documents)
    finally:
        module.PART = original
    assert np.array_equal(found.hashes, expected.hashes)
    assert found.shingles == expected.shingles


def test_the_smallest_distinct_hashes_are_kept_and_all_shingles_counted() -> None:
    fingerprint = TextFingerprint.of(LARGE)
    letters = sum(character.isalnum() for character in LARGE)
    assert fingerprint.shingles == letters - SHINGLE + 1
    assert len(fingerprint.hashes) == KEPT
    assert (np.diff(fingerprint.hashes.astype(object)) > 0).all()
    assert set(fingerprint.hashes) == set(TextFingerprint.of(LARGE + LARGE).hashes)


@pytest.mark.parametrize(
    "text", ["", "too short", "-" * 500, "\ud800" * 100], ids=["empty", "short", "dashes", "surrogates"]
)
def test_a_text_without_letters_has_nothing_to_find(text: str) -> None:
    fingerprint = TextFingerprint.of(text)
    assert (len(fingerprint.hashes), fingerprint.shingles) == (0, 0)
    assert fingerprint.shared(LARGE) == 0.0 and not fingerprint.overlaps(text)
    assert not TextFingerprint.of(LARGE).overlaps(text)


@pytest.mark.parametrize("text", ["", SMALL, LARGE])
def test_json_brings_it_back(text: str) -> None:
    fingerprint = TextFingerprint.of(text)
    stored = json.dumps(fingerprint.to_json())
    assert len(stored) < 70_000
    again = TextFingerprint.from_json(json.loads(stored))
    assert np.array_equal(again.hashes, fingerprint.hashes)
    assert again.hashes.dtype == np.uint64 and again.shingles == fingerprint.shingles


def test_hashes_stay_what_they_are_in_stored_calibrations() -> None:
    stored = TextFingerprint.of("The quick brown fox jumps over the lazy dog, twice a day and never on Sundays.")
    assert stored.to_json()["hashes"][:32] == "21b8adcdb7b12c4327116aea5a3908f8"


def test_the_bundled_verify_text_differs_from_another_part_of_itself() -> None:
    text = read_text(None).content
    half = len(text) // 2
    assert TextFingerprint.of(text[:half]).shared(text[half:]) < 0.02
