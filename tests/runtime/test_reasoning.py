"""Reasoning and text come apart in the same way however an answer is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_pio.runtime.reasoning import ReasoningSplitter


def split(pieces: list[str], opened: bool = False) -> tuple[str | None, str]:
    splitter = ReasoningSplitter(opened)
    parts = [*map(splitter.push, pieces), splitter.finish()]
    reasoning, text = ("".join(part[side] for part in parts) for side in (0, 1))
    assert splitter.found or not reasoning
    return reasoning if splitter.found else None, text


@pytest.mark.parametrize(
    ("answer", "opened", "expected"),
    [
        ("<think>\nhm,\n\nso\n</think>\n\nYes. \n", False, ("hm,\n\nso", "Yes. \n")),
        ("\n <think>a</think>b", False, ("a", "b")),
        ("hm\n</think>\n\nYes.", True, ("hm", "Yes.")),
        ("</think>\n\nYes.", True, ("", "Yes.")),
        ("<think></think>", False, ("", "")),
        ("hm, it goes on ", True, ("hm, it goes on", "")),
        ("<think>hm </thin", False, ("hm </thin", "")),
        ("Yes. <think>no</think>", False, (None, "Yes. <think>no</think>")),
        ("\n\nYes.", False, (None, "\n\nYes.")),
        ("Yes.</think> No.", False, (None, "Yes.</think> No.")),
        ("a</think>b</think>c<think>d", True, ("a", "b</think>c<think>d")),
        ("<thin", False, (None, "<thin")),
        ("<thing>", False, (None, "<thing>")),
        ("", False, (None, "")),
        ("", True, ("", "")),
        (" \n ", False, (None, " \n ")),
    ],
)
def test_answers(answer: str, opened: bool, expected: tuple[str | None, str]):
    assert split([answer], opened) == expected
    assert split(list(answer), opened) == expected


def test_reasoning_streams():
    splitter = ReasoningSplitter(opened=False)
    pieces = ["<", "think", ">\n", "first", " second", "\n", "</th", "ink>", "\n\n", "Yes", "."]
    assert [splitter.push(piece) for piece in pieces] == [
        *[("", "")] * 3,
        *[("first", ""), (" second", ""), ("", ""), ("", ""), ("", ""), ("", "")],
        *[("", "Yes"), ("", ".")],
    ]


@settings(max_examples=300, deadline=None)
@given(
    parts=st.lists(st.sampled_from(["<think>", "</think>", "a", " ", "\n", "<", "</", "think>"]), max_size=10),
    opened=st.booleans(),
)
def test_pieces_make_no_difference(parts: list[str], opened: bool):
    answer = "".join(parts)
    assert split(parts, opened) == split([answer], opened) == split(list(answer), opened)
