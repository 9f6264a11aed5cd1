"""Texts, and how they are cut."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from inference_pio.errors import BadInputError
from inference_pio.verify import windows
from inference_pio.verify.windows import Text, Windows, cut, read_text

TEXT = Text("name", "content")


@pytest.mark.parametrize(
    ("tokens", "window", "positions", "lengths"),
    [
        (1000, 100, 300, [100, 100, 100]),
        (1000, 100, 250, [100, 100, 100]),
        (250, 100, 1000, [100, 100, 49]),
        (1000, 512, 1, [1]),
        (1000, 512, 30, [30]),
        (2, 512, 4096, [1]),
        (102, 100, 4096, [100, 1]),
        (101, 100, 4096, [100]),
    ],
)
def test_whole_windows_where_the_text_allows(tokens: int, window: int, positions: int, lengths: list[int]) -> None:
    found = cut(TEXT, list(range(tokens)), window, positions)
    assert [len(inputs) for inputs in found.inputs] == lengths
    assert found.positions == sum(lengths)


def test_every_position_is_followed_by_its_target_and_nothing_repeats() -> None:
    found = cut(TEXT, list(range(250)), 100, 1000)
    inputs = np.concatenate(found.inputs)
    assert (found.targets == inputs + 1).all()
    assert (inputs == np.arange(249)).all()


@pytest.mark.parametrize("tokens", [[], [5]])
def test_a_text_that_predicts_nothing_is_refused(tokens: list[int]) -> None:
    with pytest.raises(BadInputError, match=f"{len(tokens)} tokens"):
        cut(TEXT, tokens, 512, 4096)


def test_the_bundled_text_is_long_and_read_as_it_is() -> None:
    text = read_text(None)
    assert len(text.content) > 30_000
    assert text.sha256 == hashlib.sha256(windows.HELD_OUT.read_bytes()).hexdigest()


def test_unreadable_texts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text.txt"
    with pytest.raises(BadInputError, match="cannot be read"):
        read_text(path)
    with pytest.raises(BadInputError, match="cannot be read"):
        read_text(tmp_path)
    path.write_bytes(b"fine until \xff here")
    with pytest.raises(BadInputError, match="byte 11"):
        read_text(path)
    monkeypatch.setattr(windows, "MAX_TEXT_BYTES", 5)
    with pytest.raises(BadInputError, match="larger"):
        read_text(path)


def test_the_first_windows_are_those_of_the_whole() -> None:
    whole = cut(TEXT, list(range(250)), 100, 1000)
    first = whole.first(200)
    assert [list(inputs) for inputs in first.inputs] == [list(inputs) for inputs in whole.inputs[:2]]
    assert (first.targets == whole.targets[:200]).all()


def test_a_description_recognises_its_own_tokens_only() -> None:
    found = cut(TEXT, list(range(50)), 20, 40)
    description = found.describe()
    again = Windows.from_description(found.stream, description)
    assert [list(inputs) for inputs in again.inputs] == [list(inputs) for inputs in found.inputs]
    changed = found.stream.copy()
    changed[3] += 1
    for stream, facts in (
        (changed, description),
        (found.stream[:-1], description),
        (found.stream, {**description, "window": 10}),
        (found.stream, {**description, "window": "20"}),
        (found.stream, {**description, "window": 0}),
    ):
        with pytest.raises(ValueError, match="tokens"):
            Windows.from_description(stream, facts)
