"""Prompts in every form that callers pass them, and the refusals."""

import numpy as np
import pytest

from inference_pio.errors import BadInputError
from inference_pio.runtime.inputs import checked_ids, prompt_ids, split_prompts, unpad


class Words:
    """A tokenizer of one id per letter."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


@pytest.mark.parametrize(
    ("prompts", "items", "single"),
    [
        ("ab", ["ab"], True),
        ([1, 2], [[1, 2]], True),
        ((1, 2), [[1, 2]], True),
        (np.array([1, 2]), [[1, 2]], True),
        ([np.int32(1)], [[1]], True),
        ([], [[]], True),
        (["a", "b"], ["a", "b"], False),
        (["a"], ["a"], False),
        ([[1], (2, 3)], [[1], [2, 3]], False),
        (["a", [1]], ["a", [1]], False),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]], False),
    ],
)
def test_one_prompt_or_several(prompts, items, single):
    assert split_prompts(prompts) == (items, single)


@pytest.mark.parametrize("prompts", [None, 3, 2.5, b"ab", {1, 2}, {"a": 1}, iter([1]), np.array(3), ["a", 3], [[1], 2]])
def test_what_is_no_prompt(prompts):
    with pytest.raises(BadInputError, match="a prompt is a string or a list of token ids"):
        split_prompts(prompts)


def test_prompt_ids():
    assert prompt_ids("ab", Words()) == [97, 98]
    assert prompt_ids((1, 2), Words()) == [1, 2]
    for empty in ("", [], (), np.array([], np.int64)):
        with pytest.raises(BadInputError, match="the prompt is empty"):
            prompt_ids(empty, Words())
    for wrong in (5, None, 2.5):
        with pytest.raises(BadInputError, match="a prompt is a string"):
            prompt_ids(wrong, Words())


def test_ids_come_back_as_plain_integers():
    found = checked_ids([np.int64(3), np.uint8(4), 5], 10, 3)
    assert found == [3, 4, 5]
    assert {type(item) for item in found} == {int}


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([1, -1], "token 1 of the prompt is -1, outside the vocabulary of 10"),
        ([10], "token 0 of the prompt is 10, outside"),
        ([np.int64(10)], "is 10, outside"),
        ([10**40], "outside"),
        ([True], "is True, not an integer"),
        ([np.bool_(True)], "not an integer"),
        ([1.0], "is 1.0, not an integer"),
        ([np.float32(1)], "not an integer"),
        (["1"], "is '1', not an integer"),
        ([None], "is None, not an integer"),
        ([[1]], r"is \[1\], not an integer"),
        ([np.arange(10_000)], r"is an array of shape \(10000,\), not an integer"),
        ([1] * 5, "has 5 tokens and the context ends at 4"),
    ],
    ids=str,
)
def test_ids_that_cannot_be(ids, words):
    with pytest.raises(BadInputError, match=words) as caught:
        checked_ids(ids, 10, 4)
    assert str(caught.value).isprintable()


def test_a_full_context_is_fine():
    assert checked_ids([1] * 4, 10, 4) == [1] * 4


def test_rows_lose_their_padding():
    ids = np.arange(12).reshape(3, 4)
    mask = [[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0]]
    assert unpad(ids, mask) == [[0, 1, 2, 3], [4], [8, 9, 10]]
    assert unpad(ids.tolist(), np.array(mask, bool)) == unpad(ids, np.array(mask, np.float32)) == unpad(ids, mask)
    assert unpad(np.zeros((0, 4), int), np.zeros((0, 4), int)) == []


@pytest.mark.parametrize(
    ("ids", "mask", "words"),
    [
        ([[1, 2]], [[0, 1]], "row 0 of the batch is not padded on the right"),
        ([[1, 2], [1, 2]], [[1, 1], [0, 1]], "row 1 of the batch is not padded on the right"),
        ([[1, 2, 3]], [[1, 0, 1]], "not padded on the right"),
        ([[1, 2]], [[0, 0]], "row 0 of the batch has no tokens"),
        ([[1, 2]], [[1, 2]], "only 0 and 1"),
        ([[1, 2]], [[1, -1]], "only 0 and 1"),
        ([[1, 2]], [[1, 0.5]], "only 0 and 1"),
        ([[1, 2]], [[1, float("nan")]], "only 0 and 1"),
        ([[1, 2]], [["a", "b"]], "only 0 and 1"),
        ([[1, 2]], [[1]], "of the same shape"),
        ([1, 2], [1, 1], "of the same shape"),
        ([[[1]]], [[[1]]], "of the same shape"),
        ([[1.0, 2.0]], [[1, 1]], "integer token ids"),
        ([["a", "b"]], [[1, 1]], "integer token ids"),
        ([[True, False]], [[1, 1]], "integer token ids"),
        ([[10**40]], [[1]], "integer token ids"),
        ([[1, 2], [3]], [[1, 1], [1, 0]], "differ in length"),
        ([[1, 2], [3, 4]], [[1, 1], [1]], "differ in length"),
        (None, [[1]], "of the same shape"),
    ],
    ids=str,
)
def test_batches_that_cannot_be(ids, mask, words):
    with pytest.raises(BadInputError, match=words):
        unpad(ids, mask)
