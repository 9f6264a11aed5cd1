"""Logits on disk: float32 rows that no process has to hold in memory."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np

from inference_pio.errors import ResourceLimitError
from inference_pio.verify.passes import Passes

CHUNK_ELEMENTS = 4 << 20
"""Logits of one chunk of positions: 16 MB as float32, 32 MB as float64."""


class LogitsFile:
    """Logits float32 [positions, vocabulary] in an unnamed temporary file; gone when closed, even after a crash.

    Plain reads and writes on purpose: a mapping of several gigabytes would count as resident memory.
    """

    def __init__(self, folder: Path, positions: int, vocabulary: int) -> None:
        self.positions = positions
        self.vocabulary = vocabulary
        self._folder = folder
        with _disk_errors(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by close)

    def write(self, position: int, column: int, block: np.ndarray) -> None:
        """Store `block` float32 [rows, columns] with its corner at (`position`, `column`).

        Raises ResourceLimitError when the disk is full.
        """
        rows, columns = block.shape
        if position < 0 or column < 0 or position + rows > self.positions or column + columns > self.vocabulary:
            raise ValueError(f"block {block.shape} at ({position}, {column}) does not fit")
        data = np.ascontiguousarray(block, dtype=np.float32)
        with _disk_errors(self._folder):
            if columns == self.vocabulary:
                self._file.seek(position * self.vocabulary * 4)
                self._file.write(data.data.cast("B"))
                return
            for row in range(rows):
                self._file.seek(((position + row) * self.vocabulary + column) * 4)
                self._file.write(data[row].data.cast("B"))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop`, float32 [stop - start, vocabulary]."""
        rows = np.empty((stop - start, self.vocabulary), dtype=np.float32)
        self._file.seek(start * self.vocabulary * 4)
        if self._file.readinto(rows.data.cast("B")) != rows.nbytes:
            raise ValueError(f"positions {start} to {stop} were not written")
        return rows

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> LogitsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Scratch:
    """The logits files of one verification; all of them are gone when it is closed."""

    def __init__(self, folder: Path | None, vocabulary: int, passes: Passes) -> None:
        """`folder` None is the system's temporary folder."""
        self._folder = Path(tempfile.gettempdir()) if folder is None else folder
        self._vocabulary, self._passes = vocabulary, passes
        self._stack = ExitStack()

    def require(self, positions: int, window: int) -> None:
        """Raise ResourceLimitError unless the logits of all passes over so many positions fit on the disk."""
        require_space(self._folder, self._passes.rows(positions, window) * self._vocabulary * 4)

    def open(self, positions: int) -> LogitsFile:
        """An empty file for so many rows."""
        return self._stack.enter_context(LogitsFile(self._folder, positions, self._vocabulary))

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def spans(positions: int, vocabulary: int) -> Iterator[tuple[int, int]]:
    """Position ranges whose logits fit into one chunk, in order."""
    step = max(1, CHUNK_ELEMENTS // max(1, vocabulary))
    for start in range(0, positions, step):
        yield start, min(start + step, positions)


def require_space(folder: Path, needed: int) -> None:
    """Raise ResourceLimitError unless `folder` has `needed` bytes free."""
    with _disk_errors(folder):
        free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceLimitError(
            f"the comparison needs {needed / 1e9:.1f} GB of scratch space but {folder} has {free / 1e9:.1f} GB free: "
            "choose another scratch folder or fewer positions"
        )


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ResourceLimitError(
                f"no space left in {folder} for the logits: choose another scratch folder or fewer positions"
            ) from error
        raise ResourceLimitError(
            f"scratch folder {folder} cannot be used ({error.strerror}): choose another"
        ) from error
