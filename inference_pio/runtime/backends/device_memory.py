"""Copies between buffers by address, on a GPU through the CUDA runtime that ONNX Runtime has loaded, or on the host.

ONNX Runtime's Python interface moves whole tensors only; a cache is saved, restored and grown by rows.
CUDA runtime API: https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__MEMORY.html
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

from inference_pio.errors import BadInputError, InferencePioError, ResourceLimitError

COPY_BY_ADDRESS = 4
"""cudaMemcpyDefault: the addresses tell the direction."""
RUNTIMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")


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
    """Memory of a GPU. `library` is the loaded CUDA runtime."""

    kind = "cuda"

    def __init__(self, index: int, library: Any) -> None:
        self.index = index
        self._library = library
        self._call("cudaSetDevice", ctypes.c_int(index))

    def free_bytes(self) -> int | None:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def zero(self, address: int, size: int) -> None:
        self._call("cudaMemset", ctypes.c_void_p(address), ctypes.c_int(0), ctypes.c_size_t(size))
        self._call("cudaDeviceSynchronize")

    def copy_rows(self, to: int, to_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        if not width or not rows:
            return
        sizes = [ctypes.c_size_t(size) for size in (to_pitch, source_pitch, width, rows)]
        places = ctypes.c_void_p(to), ctypes.c_void_p(source)
        self._call("cudaSetDevice", ctypes.c_int(self.index))  # the device is a setting of each thread
        self._call("cudaMemcpy2D", places[0], sizes[0], places[1], *sizes[1:], ctypes.c_int(COPY_BY_ADDRESS))
        self._call("cudaDeviceSynchronize")  # the session's stream does not wait for copies

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise InferencePioError(f"the CUDA runtime failed in {name} with status {status}: see doctor")


def load_cuda_runtime() -> Any:
    """The CUDA runtime library; raises BadInputError when it is not there."""
    for name in RUNTIMES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise BadInputError(
        f"the CUDA runtime ({RUNTIMES[0]} or older) cannot be loaded: pip install 'inference-pio[cuda]' brings it"
    )


def check_free(memory: DeviceMemory, size: int, what: str) -> None:
    """Raise ResourceLimitError unless the device has room for `size` bytes; nothing is checked where it cannot tell."""
    free = memory.free_bytes()
    if free is not None and size > free:
        raise ResourceLimitError(
            f"{what} needs {-(-size // 1_000_000)} MB on the GPU and {free // 1_000_000} MB are free: ask for fewer "
            "tokens, lower max_context, or export with a smaller precision"
        )
