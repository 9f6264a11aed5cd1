"""Lazy weights: rows in chunks, stacks of tensors, and damage named where it lies."""

import numpy as np
import onnx_ir as ir
import pytest

from inference_pio.errors import BadInputError
from inference_pio.graphs import weights
from inference_pio.graphs.weights import ComputeRows, Recipe, Rows, StoreRows, holds_rows, lazy_initializer, stored_rows

ARRAYS = {
    "a": np.arange(12, dtype=np.float32).reshape(4, 3),
    "b": -np.arange(6, dtype=np.float32).reshape(2, 3),
    "c": np.arange(5, dtype=np.float32),
}


def rows(name: str, arrays: dict[str, np.ndarray] = ARRAYS) -> Rows:
    array = arrays[name]
    return Rows(((name, len(array)),), array.shape[1:], lambda n, start, stop: arrays[n][start:stop])


def all_bytes(job) -> bytes:
    return b"".join(bytes(work().data) for work in job.pieces())


def test_rows_of_a_stack_cross_its_seams():
    stack = rows("a").stack(rows("b"), rows("a"))
    whole = np.concatenate([ARRAYS["a"], ARRAYS["b"], ARRAYS["a"]])
    assert stack.shape == (10, 3)
    for start in range(10):
        for stop in range(start + 1, 11):
            assert (stack.read(start, stop) == whole[start:stop]).all()


@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_rows_that_take_turns(monkeypatch, chunk):
    """a0 d0 a1 d1 ... of every pair, from any row to any other, and in chunks of any size."""
    monkeypatch.setattr(weights, "CHUNK_ELEMENTS", 3 * chunk)
    other = ARRAYS["a"] + 100
    arrays = {**ARRAYS, "d": other, "e": other + 100, "f": other + 200}
    turns = rows("a", arrays).stack(rows("e", arrays)).interleave(rows("d", arrays).stack(rows("f", arrays)))
    pairs = [np.stack([arrays[one], arrays[two]], axis=1).reshape(-1, 3) for one, two in ("ad", "ef")]
    whole = np.concatenate(pairs)
    assert turns.shape == (16, 3)
    for start in range(16):
        for stop in range(start + 1, 17):
            assert (turns.read(start, stop) == whole[start:stop]).all()
    assert all_bytes(StoreRows(turns)) == whole.tobytes()
    assert [turns.between(*span) for span in ((0, 1), (7, 9), (9, 16))] == ["a + d", "a + d + e + f", "e + f"]


def test_only_rows_of_one_size_take_turns():
    for other in ("b", "c"):
        with pytest.raises(BadInputError, match=f"a and {other} cannot be interleaved"):
            rows("a").interleave(rows(other))


def test_rows_of_different_sizes_cannot_be_stacked():
    with pytest.raises(BadInputError, match="a and c cannot be stacked"):
        rows("a").stack(rows("c"))


@pytest.mark.parametrize(("elements", "pieces"), [(1, 4), (3, 4), (6, 2), (8, 2), (100, 1)])
def test_chunks_cover_every_row_once(monkeypatch, elements, pieces):
    monkeypatch.setattr(weights, "CHUNK_ELEMENTS", elements)
    spans = list(rows("a").spans())
    assert len(spans) == pieces
    assert [row for span in spans for row in range(*span)] == [0, 1, 2, 3]
    assert all_bytes(StoreRows(rows("a"))) == ARRAYS["a"].tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (2, 1), (3, 2)])
def test_damage_is_named_with_its_rows(monkeypatch, value, place):
    monkeypatch.setattr(weights, "CHUNK_ELEMENTS", 3)
    damaged = {"a": ARRAYS["a"].copy()}
    damaged["a"][place] = value
    for job in (StoreRows(rows("a", damaged)), StoreRows(rows("a", damaged), ir.DataType.FLOAT16)):
        with pytest.raises(BadInputError, match=f"tensor 'a' holds NaN or infinite values in rows {place[0]} to"):
            all_bytes(job)


def test_infinities_of_both_signs_do_not_cancel():
    damaged = {"a": np.array([[np.inf, -np.inf, 0]], np.float32)}
    with pytest.raises(BadInputError, match="NaN or infinite"):
        rows("a", damaged).read(0, 1)


def test_the_largest_floats_are_no_damage():
    large = {"a": np.full((100, 3), np.finfo(np.float32).max, np.float32)}
    assert (rows("a", large).read(0, 100) == large["a"]).all()


def test_float16_rounds_and_refuses_overflow_by_name():
    halves = np.frombuffer(all_bytes(StoreRows(rows("a"), ir.DataType.FLOAT16)), np.float16)
    assert (halves == ARRAYS["a"].reshape(-1)).all()
    fits = {"a": np.full((1, 2), 65519, np.float32)}
    assert np.frombuffer(all_bytes(StoreRows(rows("a", fits), ir.DataType.FLOAT16)), np.float16).max() == 65504
    too_large = {"a": np.full((1, 2), -65520, np.float32)}
    with pytest.raises(BadInputError, match="'a' has values beyond the range of float16"):
        all_bytes(StoreRows(rows("a", too_large), ir.DataType.FLOAT16))


def test_computed_rows_are_the_same_in_any_chunks(monkeypatch):
    job = ComputeRows(10, (2,), lambda start, stop: np.arange(2 * start, 2 * stop, dtype=np.float32).reshape(-1, 2))
    for elements in (1, 4, 7, 100):
        monkeypatch.setattr(weights, "CHUNK_ELEMENTS", elements)
        assert all_bytes(job) == np.arange(20, dtype=np.float32).tobytes()


def test_an_initializer_is_evaluated_only_when_asked():
    asked = []
    source = Rows((("a", 4),), (3,), lambda n, start, stop: (asked.append(n), ARRAYS[n][start:stop])[1])
    value = lazy_initializer("w", ir.DataType.FLOAT, (4, 3), Recipe(StoreRows(source)))
    assert (asked, value.const_value.nbytes) == ([], 48)
    assert (value.const_value.numpy() == ARRAYS["a"]).all()
    assert asked == ["a"]


def test_only_plain_rows_count_as_such():
    plain = lazy_initializer("w", ir.DataType.FLOAT, (4, 3), Recipe(StoreRows(rows("a"))))
    job = ComputeRows(4, (3,), lambda start, stop: ARRAYS["a"][start:stop])
    computed = lazy_initializer("t", ir.DataType.FLOAT, (4, 3), Recipe(job))
    assert stored_rows(plain).parts == (("a", 4),)
    assert (holds_rows(plain, 2), holds_rows(plain, 1), holds_rows(computed, 2), holds_rows(None, 2)) == (1, 0, 0, 0)
    for value in (computed, ir.Value(name="x")):
        with pytest.raises(TypeError, match="does not hold plain checkpoint rows"):
            stored_rows(value)
