"""Copies between buffers by address, on a GPU or on the host.

ONNX Runtime's Python interface moves whole tensors only; a cache is saved, restored and grown by rows.
"""

from __future__ import annotations

import ctypes
from typing import Protocol

from inference_pio.errors import ResourceLimitError
from inference_pio.runtime.backends.cuda_library import Cuda

DEFAULT_STREAM = 0


class DeviceMemory(Protocol):
    """Memory of the device that a session runs on; addresses may be the host's as well."""

    kind: str
    """What ONNX Runtime calls the device."""
    index: int

    def free_bytes(self) -> int | None:
        """What can still be allocated, None where that is not for this object to say."""

    def zero(self, address: int, size: int) -> None:
        """Fill `size` bytes with zeros."""

    def copy_rows(self, to: int, to_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        """Copy `rows` pieces of `width` bytes that lie `pitch` bytes apart; complete when this returns."""


class HostMemory:
    """Memory of this process."""

    kind, index = "cpu", 0

    def free_bytes(self) -> int | None:
        return None

    def zero(self, address: int, size: int) -> None:
        ctypes.memset(address, 0, size)

    def copy_rows(self, to: int, to_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        for row in range(rows):
            ctypes.memmove(to + row * to_pitch, source + row * source_pitch, width)


class CudaMemory:
    """Memory of a GPU."""

    kind = "cuda"

    def __init__(self, cuda: Cuda) -> None:
        self.index = cuda.device
        self.cuda = cuda

    def free_bytes(self) -> int | None:
        self.cuda.use()
        return self.cuda.free_and_total()[0]

    def zero(self, address: int, size: int) -> None:
        self.cuda.use()
        self.cuda.clear(address, size, DEFAULT_STREAM)
        self.cuda.finish()

    def copy_rows(self, to: int, to_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        if not width or not rows:
            return
        self.cuda.use()  # the device is a setting of each thread
        self.cuda.copy_rows(to, to_pitch, source, source_pitch, width, rows)
        self.cuda.finish()  # the session's stream does not wait for copies


def check_free(memory: DeviceMemory, size: int, what: str) -> None:
    """Raise ResourceLimitError unless the device has room for `size` bytes; nothing is checked where it cannot tell."""
    free = memory.free_bytes()
    if free is not None and size > free:
        raise ResourceLimitError(
            f"{what} needs {-(-size // 1_000_000)} MB on the GPU and {free // 1_000_000} MB are free: ask for fewer "
            "tokens, lower max_context, or export with a smaller precision"
        )
