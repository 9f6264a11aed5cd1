"""Weights in blocks of integers, quantized a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from inference_pio.graphs.calibrated import CodeReader
from inference_pio.graphs.rounding import round_blocks
from inference_pio.graphs.weights import Piece, Rows, bytes_of


@dataclass(frozen=True)
class QuantizeRows:
    """Quantized data as the main bytes, scales as the side bytes, both from one pass over the rows.

    `codes` gives rows that a calibration rounded; without it they are rounded here, in four bits with the scales of
    the least error: eight bits have levels to spare.
    """

    rows: Rows
    bits: int
    block: int
    codes: CodeReader | None = field(default=None, repr=False, compare=False)

    @property
    def blocks(self) -> int:
        """Blocks in a row."""
        return -(-self.rows.tail[0] // self.block)

    def pieces(self) -> Iterator[Callable[[], Piece]]:
        for start, stop in self.rows.spans():
            yield partial(self._piece, start, stop)

    def _piece(self, start: int, stop: int) -> Piece:
        if self.codes is not None:
            data, scales = self.codes(start, stop)
        else:
            data, scales = round_blocks(self.rows.read(start, stop), self.bits, self.block, clip=self.bits == 4)
        return Piece(bytes_of(data), scales.tobytes())
