"""Hidden states on disk: read and written like an array of rows."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from inference_pio.calibration.hidden_states import HiddenStates, HiddenWriter
from inference_pio.errors import BadInputError, ResourceLimitError

ROWS = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
NUMBERS = ([], [4], [0, 1, 2], [3, 7, 8, 9, 19], [5, 2, 3])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    writer = HiddenWriter(tmp_path / "hidden.0.bin")
    for rows in np.split(ROWS, 4):
        writer.add(rows)
    writer.close()
    return tmp_path / "hidden.0.bin"


@pytest.mark.parametrize("rows", [slice(None), slice(0, 5), slice(7, 7), *map(np.array, NUMBERS[1:])])
def test_rows_are_read_as_from_an_array(file: Path, rows: slice | np.ndarray):
    with HiddenStates(file, 3) as states:
        assert states.shape == ROWS.shape and len(states) == len(ROWS)
        assert np.array_equal(states[rows], ROWS[rows])


@pytest.mark.parametrize("numbers", NUMBERS)
def test_rows_are_added_to_as_in_an_array(file: Path, numbers: list[int]):
    rows, expected = np.array(numbers, np.int64), ROWS.copy()
    expected[rows] += 1
    with HiddenStates(file, 3, writable=True) as states:
        states[rows] += 1
    assert np.array_equal(np.fromfile(file, np.float32).reshape(-1, 3), expected)


def test_a_file_that_becomes_shorter_is_refused(file: Path):
    with HiddenStates(file, 3) as states:
        os.truncate(file, 5 * 12 + 4)
        assert np.array_equal(states[:5], ROWS[:5])
        with pytest.raises(BadInputError, match="cut short"):
            states[4:6]


def test_a_full_disk_while_rows_are_written(file: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with HiddenStates(file, 3, writable=True) as states, pytest.raises(ResourceLimitError, match="no space left"):
        states[np.array([1])] = ROWS[:1]
