"""Buffers of a cache, on a GPU or on the host, and copies between them by address.

ONNX Runtime's Python interface moves whole tensors only; a cache is saved, restored and grown by rows. What it
allocates on a GPU comes from an arena that doubles and gives nothing back, and whose free part the GPU counts as used:
a cache that grows would find the GPU full too early. So buffers come from the device itself.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Protocol

import numpy as np

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

    def allocate(self, size: int, what: str) -> int:
        """The address of `size` new bytes; raises ResourceLimitError, or MemoryError on the host, without room."""

    def give_back(self, address: int) -> None:
        """Free what `allocate` returned."""

    def zero(self, address: int, size: int) -> None:
        """Fill `size` bytes with zeros."""

    def copy_rows(self, to: int, to_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        """Copy `rows` pieces of `width` bytes that lie `pitch` bytes apart; complete when this returns."""


class DeviceBuffer:
    """`size` bytes of a device's memory, zeros at first; given back when nothing refers to this any more."""

    def __init__(self, memory: DeviceMemory, size: int, what: str) -> None:
        self.address = memory.allocate(size, what)
        weakref.finalize(self, memory.give_back, self.address).atexit = False  # the driver may be gone by then
        memory.zero(self.address, size)


class HostMemory:
    """Memory of this process."""

    kind, index = "cpu", 0

    def __init__(self) -> None:
        self._held: dict[int, np.ndarray] = {}

    def free_bytes(self) -> int | None:
        return None

    def allocate(self, size: int, what: str) -> int:
        array = np.empty(max(size, 1), np.uint8)
        self._held[array.ctypes.data] = array
        return array.ctypes.data

    def give_back(self, address: int) -> None:
        del self._held[address]

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

    def allocate(self, size: int, what: str) -> int:
        self.cuda.use()
        return self.cuda.allocate(size, what)

    def give_back(self, address: int) -> None:
        self.cuda.use()
        self.cuda.free(address)

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
