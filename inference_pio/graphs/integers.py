"""Weights of integer products: int8 with a scale per output channel, stored [K, N] as the operator reads them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from inference_pio.graphs.calibrated import CalibratedLinear, CodeReader
from inference_pio.graphs.rounding import round_channels
from inference_pio.graphs.weights import Piece, Rows, RowsReader, bytes_of, in_turn


@dataclass(frozen=True)
class IntegerColumns:
    """int8 codes [K, N] as the main bytes, float32 scales [N] as the side bytes.

    The checkpoint has [N, K], so one tensor's codes are gathered in memory, a byte an element, before they are
    written; rows are still read and rounded a chunk at a time.
    """

    rows: Rows
    codes: CodeReader | None = field(default=None, repr=False, compare=False)

    def pieces(self) -> Iterator[Callable[[], Piece]]:
        gathered = _Gathered(self.rows.tail[0], self.rows.count)
        spans = list(self.rows.spans())
        for start, stop in spans:
            yield partial(self._fill, gathered, start, stop)
        yield partial(gathered.wait, len(spans))

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes int8 [rows, K] and scales float32 [rows]."""
        return (
            self.codes(start, stop)
            if self.codes is not None
            else round_channels(self.rows.read(start, stop), clip=False)
        )

    def _fill(self, gathered: _Gathered, start: int, stop: int) -> Piece:
        try:
            codes, scales = self.read(start, stop)
            gathered.codes_KN[:, start:stop] = codes.T
            return Piece(b"", _positive(scales).tobytes())
        finally:
            gathered.arrived()


@dataclass(frozen=True)
class IntegerRows:
    """int8 codes [N, K] as the main bytes, float32 scales [N] as the side bytes: the rows in their own order."""

    rows: Rows

    def pieces(self) -> Iterator[Callable[[], Piece]]:
        for start, stop in self.rows.spans():
            yield partial(self._piece, start, stop)

    def _piece(self, start: int, stop: int) -> Piece:
        codes, scales = round_channels(self.rows.read(start, stop), clip=False)
        return Piece(bytes_of(codes), _positive(scales).tobytes())


def _positive(scales: np.ndarray) -> np.ndarray:
    """Scales with 1 for rows of zeros, whose codes are zeros too: TensorRT takes no scale of 0."""
    return np.where(scales == 0, np.float32(1), scales.astype(np.float32, copy=False))


class _Gathered:
    """Codes that several threads fill in; the last piece waits for all of them."""

    def __init__(self, columns: int, rows: int) -> None:
        self.codes_KN = np.empty((columns, rows), np.int8)
        self._count = 0
        self._changed = threading.Condition()

    def arrived(self) -> None:
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def wait(self, pieces: int) -> Piece:
        """All codes, once `pieces` have arrived; those were handed to the pool earlier, so they never wait for this."""
        with self._changed:
            self._changed.wait_for(lambda: self._count >= pieces)
        return Piece(bytes_of(self.codes_KN))


def stacked(readers: Sequence[tuple[int, RowsReader]]) -> CodeReader:
    """One reader over tensors that lie behind each other along the rows; `readers` are (rows, reader)."""

    def read(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        codes, scales, offset = [], [], 0
        for rows, reader in readers:
            first, last = max(start - offset, 0), min(stop - offset, rows)
            if first < last:
                part = reader(first, last)
                codes.append(part[0])
                scales.append(part[1])
            offset += rows
        return np.concatenate(codes), np.concatenate(scales)

    return read


def calibrated_codes(rows: Rows, linears: list[CalibratedLinear]) -> CodeReader | None:
    """The codes of a weight whose tensors are `linears`, one behind the other; None when there are none."""
    if not linears:
        return None
    counts = [count for _, count in rows.parts]
    step = rows.interleaved
    groups = [
        (sum(counts[i : i + step]), partial(in_turn, [linear.read for linear in linears[i : i + step]]))
        for i in range(0, len(counts), step)
    ]
    return stacked(groups)
