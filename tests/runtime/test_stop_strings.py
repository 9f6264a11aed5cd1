"""The stop string matcher alone, against a search in the whole text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_pio.runtime.stop_strings import StopMatcher


def fed(pieces: list[str], stop: tuple[str, ...]) -> tuple[str, bool]:
    matcher = StopMatcher(stop)
    text = "".join(matcher.push(piece) for piece in pieces)
    return text + matcher.finish(), matcher.stopped


def expected(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    ends = [(text.index(item) + len(item), text.index(item)) for item in stop if item in text]
    return (text[: min(ends)[1]], True) if ends else (text, False)


@settings(max_examples=500, deadline=None)
@given(
    pieces=st.lists(st.text(alphabet="ab", max_size=5), max_size=12),
    stop=st.lists(st.text(alphabet="ab", min_size=1, max_size=6), max_size=4).map(tuple),
)
def test_any_pieces_and_stops(pieces, stop):
    assert fed(pieces, stop) == expected("".join(pieces), stop)


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(alphabet="ab", max_size=20),
    stop=st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1, max_size=3).map(tuple),
)
def test_what_was_given_out_is_never_part_of_a_stop_string_to_come(text, stop):
    matcher = StopMatcher(stop)
    given_out = ""
    for character in text:
        given_out += matcher.push(character)
        assert expected(text, stop)[0].startswith(given_out)


@pytest.mark.parametrize(
    ("pieces", "stop", "text"),
    [
        (["aab", "aabaaab"], ("aaab",), "aabaab"),
        (["abcd"], ("c", "abcd"), "ab"),
        (["abc"], ("bc", "abc", "c"), ""),
        (["x\n", "\ny"], ("\n\n",), "x"),
        (["é€"], ("€",), "é"),
    ],
)
def test_the_first_complete_one_counts(pieces, stop, text):
    assert fed(pieces, stop) == (text, True)


def test_nothing_is_held_without_stop_strings_or_after_a_mismatch():
    assert StopMatcher(()).push("abc") == "abc"
    matcher = StopMatcher(("abd",))
    assert [matcher.push(character) for character in "abcx"] == ["", "", "abc", "x"]
