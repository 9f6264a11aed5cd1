"""Safetensors read in pieces, as float32, without mapping files (mapped pages count as resident memory)."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_pio.artifact.printable import printable
from inference_pio.checkpoint.files import open_regular, read_exactly
from inference_pio.checkpoint.safetensors_header import TensorInfo, read_header
from inference_pio.errors import BadInputError

__all__ = ["FLOAT_DTYPES", "TensorInfo", "TensorReader", "read_header"]

FLOAT_DTYPES = ("BF16", "F16", "F32")
STORED_DTYPES = {"F32": np.float32, "I64": np.int64, "I8": np.int8, "U8": np.uint8}

# Half-precision bytes are converted in pieces of this size, so that they are still in the CPU's cache.
_PIECE_BYTES = 1 << 20


class TensorReader:
    """Reads tensors of any number of files; each file is opened once. Threads may share a reader.

    Close it only when no thread reads any more.
    """

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._local = threading.local()
        self._closed = False

    def read(self, info: TensorInfo) -> NDArray[np.float32]:
        """The whole tensor as float32 of its own shape. Raises as `read_rows`."""
        return self._elements(info, 0, math.prod(info.shape)).reshape(info.shape)

    def read_rows(self, info: TensorInfo, start: int, stop: int) -> NDArray[np.float32]:
        """Rows start..stop along axis 0, float32 [stop - start, *shape[1:]]; a 0-d tensor counts as one row.

        BF16, F16 and F32 are converted exactly, NaN and infinity included. Raises `BadInputError` for other
        dtypes, for rows outside the tensor, and when the file has become shorter than its header said.
        """
        rows, inner = (info.shape[0], info.shape[1:]) if info.shape else (1, ())
        if not 0 <= start <= stop <= rows:
            raise BadInputError(f"rows {start} to {stop} were asked of tensor {printable(info.name)}, which has {rows}")
        row_elements = math.prod(inner)
        flat = self._elements(info, start * row_elements, (stop - start) * row_elements)
        return flat.reshape((stop - start, *inner))

    def read_stored(self, info: TensorInfo, start: int, stop: int) -> NDArray[Any]:
        """Rows start..stop along axis 0 in the tensor's own dtype: F32, I64, I8 or U8.

        Raises `BadInputError` for other dtypes, for rows outside the tensor, and when the file has become shorter.
        """
        if info.dtype not in STORED_DTYPES or not info.shape or not 0 <= start <= stop <= info.shape[0]:
            raise BadInputError(f"rows {start} to {stop} of tensor {printable(info.name)} cannot be read as stored")
        rows = np.empty((stop - start, *info.shape[1:]), STORED_DTYPES[info.dtype])
        offset = info.offset + start * rows.itemsize * math.prod(info.shape[1:])
        if rows.size:
            view = rows.reshape(-1).view(np.uint8).data
            read_exactly(self._descriptor(info.file), offset, view, info.file.name)
        return rows

    def close(self) -> None:
        """Closes the files; closing twice is harmless, reading afterwards is an error."""
        with self._lock:
            self._closed = True
            while self._descriptors:
                os.close(self._descriptors.popitem()[1])

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _elements(self, info: TensorInfo, first: int, count: int) -> NDArray[np.float32]:
        if info.dtype not in FLOAT_DTYPES:
            raise BadInputError(
                f"tensor {printable(info.name)} in {printable(info.file.name)} is {info.dtype}; "
                f"only {', '.join(FLOAT_DTYPES)} can be read as weights"
            )
        descriptor = self._descriptor(info.file)
        values = np.empty(count, np.float32)
        if info.dtype == "F32":
            read_exactly(descriptor, info.offset + 4 * first, values.view(np.uint8).data, info.file.name)
            return values
        raw = self._buffer()
        for done in range(0, count, len(raw)):
            piece = raw[: min(len(raw), count - done)]
            offset = info.offset + 2 * (first + done)
            read_exactly(descriptor, offset, piece.view(np.uint8).data, info.file.name)
            _widen(piece, info.dtype, values[done : done + len(piece)])
        return values

    def _descriptor(self, path: Path) -> int:
        with self._lock:
            if self._closed:
                raise ValueError("the reader is closed")
            if path not in self._descriptors:
                self._descriptors[path] = open_regular(path)[0]
            return self._descriptors[path]

    def _buffer(self) -> NDArray[np.uint16]:
        buffer: NDArray[np.uint16] | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = np.empty(_PIECE_BYTES // 2, np.uint16)
        return buffer


def _widen(raw: NDArray[np.uint16], dtype: str, values: NDArray[np.float32]) -> None:
    """The float32 of every bfloat16 or IEEE half in `raw`, written to `values` without temporaries."""
    if dtype == "F16":
        values[...] = raw.view(np.float16)
        return
    # bfloat16 is the upper half of a float32.
    bits = values.view(np.uint32)
    bits[...] = raw
    np.left_shift(bits, np.uint32(16), out=bits)
