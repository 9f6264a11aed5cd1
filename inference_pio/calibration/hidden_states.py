"""Hidden states of all samples on disk, read and written in pieces: mapped pages would count as resident memory."""

from __future__ import annotations

import errno
import os
from itertools import pairwise
from pathlib import Path

import numpy as np

from inference_pio.checkpoint.files import read_exactly
from inference_pio.errors import BadInputError, ResourceLimitError


class HiddenStates:
    """A file of float32 rows of `columns` values, used like an array [rows, columns]; close it after use.

    Rows are chosen by a slice or by their numbers (int64), and read as float32 [chosen, columns]. Assigning needs
    `writable`, numbers, and raises ResourceLimitError when the disk is full. Reading raises BadInputError when the
    file has become shorter or cannot be read.
    """

    def __init__(self, file: Path, columns: int, writable: bool = False) -> None:
        self._file, self._row_bytes = file, 4 * columns
        self.shape = file.stat().st_size // self._row_bytes, columns
        self._descriptor = os.open(file, os.O_RDWR if writable else os.O_RDONLY)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        runs = _runs(np.arange(len(self))[rows])
        found = np.empty((sum(count for _, count in runs), self.shape[1]), np.float32)
        done = 0
        for first, count in runs:
            self._fill(found[done : done + count].reshape(-1).view(np.uint8).data, first * self._row_bytes)
            done += count
        return found

    def __setitem__(self, rows: np.ndarray, values: np.ndarray) -> None:
        data = np.ascontiguousarray(values, np.float32)
        done = 0
        for first, count in _runs(rows):
            self._store(data[done : done + count].reshape(-1).view(np.uint8).data, first * self._row_bytes)
            done += count

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> HiddenStates:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _fill(self, target: memoryview, offset: int) -> None:
        try:
            read_exactly(self._descriptor, offset, target, self._file.name)
        except BadInputError:  # what to do about a checkpoint's file is no help here
            message = f"{self._file} was cut short or cannot be read any more: run the same command again"
            raise BadInputError(message) from None

    def _store(self, source: memoryview, offset: int) -> None:
        while len(source):
            try:
                count = os.pwrite(self._descriptor, source, offset)
            except OSError as error:
                raise refused(self._file.parent, error) from error
            source, offset = source[count:], offset + count


class HiddenWriter:
    """Hidden states written one sample after the other by plain writes."""

    def __init__(self, place: Path) -> None:
        self._place, self._temporary = place, place.with_suffix(".tmp")
        self._file = self._temporary.open("wb")

    def add(self, hidden_SC: np.ndarray) -> None:
        """One sample, float32 [length, size]; raises ResourceLimitError when the disk is full."""
        try:
            self._file.write(np.ascontiguousarray(hidden_SC, np.float32).data.cast("B"))
        except OSError as error:
            raise refused(self._place.parent, error) from error

    def close(self) -> None:
        """Put the file in its place; raises as `add` does."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self._place)
        except OSError as error:
            raise refused(self._place.parent, error) from error


def refused(folder: Path, error: OSError) -> Exception:
    """What to raise when `folder` cannot be written: ResourceLimitError for a full disk, else BadInputError."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceLimitError(f"no space left in {folder}: free some, then run the same command to go on")
    return BadInputError(f"{folder} cannot be written ({error.strerror}): choose another place")


def _runs(rows: np.ndarray) -> list[tuple[int, int]]:
    """Row numbers as (first, count) of consecutive ones."""
    edges = np.flatnonzero(np.diff(rows) != 1) + 1
    bounds = [0, *edges.tolist(), len(rows)]
    return [(int(rows[a]), b - a) for a, b in pairwise(bounds) if b > a]
