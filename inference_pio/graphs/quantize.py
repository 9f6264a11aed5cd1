"""Blockwise round-to-nearest quantization in the layout of ONNX Runtime's MatMulNBits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from inference_pio.graphs.calibrated import CodeReader
from inference_pio.graphs.weights import Piece, Rows, bytes_of


def quantize_blocks(rows_NK: np.ndarray, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric quantization of float32 rows in blocks along the row.

    Returns data uint8 [N, blocks, block * bits / 8] (zero point 2^(bits-1), two 4-bit values to a byte, the first in
    the low half) and scales float32 [N, blocks]; a value is `(data - zero_point) * scale`. Eight bits use the scale
    max|w| / 127. Four bits map the block's largest magnitude to -8 exactly, sign included, so that all 16 levels serve.
    A block whose scale is no normal float32 becomes zero: its inverse would be infinite.
    """
    rows, columns = rows_NK.shape
    blocks = -(-columns // block)
    if blocks * block != columns:
        rows_NK = np.pad(rows_NK, ((0, 0), (0, blocks * block - columns)))
    values = rows_NK.reshape(rows, blocks, block)
    high, low = values.max(axis=2), values.min(axis=2)
    if bits == 8:
        scales = np.maximum(high, -low) / np.float32(127)
    else:
        scales = np.where(high > -low, high, low) / np.float32(-8)
    scales[np.abs(scales) < np.finfo(np.float32).tiny] = 0
    inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)
    zero, top = 1 << (bits - 1), (1 << bits) - 1
    scaled = values * inverse[:, :, None]
    np.rint(scaled, out=scaled)
    scaled += np.float32(zero)
    np.clip(scaled, 0, top, out=scaled)
    data = scaled.astype(np.uint8)
    if bits == 4:
        data = data[:, :, 0::2] | (data[:, :, 1::2] << 4)
    return data, scales


@dataclass(frozen=True)
class QuantizeRows:
    """Quantized data as the main bytes, scales as the side bytes, both from one pass over the rows.

    `codes` gives rows that a calibration rounded; without it they are rounded here.
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
            data, scales = quantize_blocks(self.rows.read(start, stop), self.bits, self.block)
        return Piece(bytes_of(data), scales.tobytes())
