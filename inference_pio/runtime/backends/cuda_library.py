"""The CUDA runtime library through ctypes: memory, copies, streams and graphs, without a package to install.

Functions and codes: https://docs.nvidia.com/cuda/cuda-runtime-api/. Those used here have the same signatures in CUDA
11, 12 and 13. Addresses and sizes are plain integers, in bytes.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_int, c_size_t, c_ulonglong, c_void_p
from typing import Any

from inference_pio.errors import BadInputError, InferencePioError, ResourceLimitError
from inference_pio.machine.libraries import packaged

VERSIONS = {11: "libcudart.so.11.0", 12: "libcudart.so.12", 13: "libcudart.so.13"}
UNNUMBERED = 13
"""From this major version on NVIDIA's packages have no number in their names; those with one are empty."""
TO_DEVICE, TO_HOST, ON_DEVICE, BY_ADDRESS = 1, 2, 3, 4
"""Directions of a copy; the last leaves it to the addresses."""
_OUT_OF_MEMORY, _NO_DRIVER, _NO_DEVICE = 2, 35, 100
_MAJOR, _MINOR = 75, 76
_CAPTURE_THREAD_LOCAL = 1
_NAME_BYTES = 256

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudaSetDevice": (c_int,),
    "cudaGetDeviceCount": (c_void_p,),
    "cudaDeviceGetAttribute": (c_void_p, c_int, c_int),
    "cudaMemGetInfo": (c_void_p, c_void_p),
    "cudaMalloc": (c_void_p, c_size_t),
    "cudaFree": (c_void_p,),
    "cudaMallocHost": (c_void_p, c_size_t),
    "cudaFreeHost": (c_void_p,),
    "cudaMemsetAsync": (c_void_p, c_int, c_size_t, c_void_p),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaMemcpy2D": (c_void_p, c_size_t, c_void_p, c_size_t, c_size_t, c_size_t, c_int),
    "cudaDeviceSynchronize": (),
    "cudaStreamCreate": (c_void_p,),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, c_void_p),
    "cudaGraphInstantiateWithFlags": (c_void_p, c_void_p, c_ulonglong),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphExecDestroy": (c_void_p,),
}


class Cuda:
    """One device. Every call raises as `_check` does; work is ordered by the streams that are passed."""

    def __init__(self, runtime: Any, driver: Any, device: int = 0) -> None:
        """`runtime` and `driver` are the loaded libraries; makes `device` the one of this thread."""
        self._runtime, self._driver, self.device = runtime, driver, device
        for name, arguments in _SIGNATURES.items():
            function = getattr(runtime, name)
            function.argtypes, function.restype = arguments, c_int
        runtime.cudaGetErrorString.argtypes, runtime.cudaGetErrorString.restype = (c_int,), c_char_p
        count = c_int()
        self._check(runtime.cudaGetDeviceCount(byref(count)), "looking for GPUs")
        if not 0 <= device < count.value:
            raise BadInputError(f"there is no GPU {device}: this machine has {count.value}, numbered from 0")
        self.use()

    def use(self) -> None:
        """Make the device that of the calling thread; needed once in every thread that calls."""
        self._check(self._runtime.cudaSetDevice(self.device), f"taking GPU {self.device}")

    @property
    def name(self) -> str:
        """The device's name, such as "NVIDIA GeForce GTX 1060 6GB"."""
        text = ctypes.create_string_buffer(_NAME_BYTES)
        if self._driver.cuInit(0) or self._driver.cuDeviceGetName(text, _NAME_BYTES, self.device):
            raise BadInputError(f"the driver does not name GPU {self.device}: check it with nvidia-smi")
        return text.value.decode("utf-8", "replace")

    @property
    def capability(self) -> str:
        """The compute capability, such as "6.1"."""
        return f"{self._attribute(_MAJOR)}.{self._attribute(_MINOR)}"

    def free_and_total(self) -> tuple[int, int]:
        """Bytes of device memory."""
        free, total = c_size_t(), c_size_t()
        self._check(self._runtime.cudaMemGetInfo(byref(free), byref(total)), "asking for free memory")
        return free.value, total.value

    def allocate(self, size: int, what: str) -> int:
        """An address of `size` bytes, aligned to 256.

        Raises ResourceLimitError, before anything is allocated, when less is free.
        """
        free, _ = self.free_and_total()
        if size > free:
            raise ResourceLimitError(
                f"{what} needs {_mb(size)} of GPU memory and {_mb(free)} are free: use a smaller context or recipe, or "
                "close other programs that use the GPU"
            )
        return self._made("cudaMalloc", what, c_size_t(max(size, 1)))

    def free(self, address: int) -> None:
        self._check(self._runtime.cudaFree(address), "freeing memory")

    def allocate_host(self, size: int) -> int:
        """Host memory that copies reach directly."""
        return self._made("cudaMallocHost", "a host buffer", c_size_t(max(size, 1)))

    def free_host(self, address: int) -> None:
        self._check(self._runtime.cudaFreeHost(address), "freeing host memory")

    def clear(self, address: int, size: int, stream: int) -> None:
        """Zero bytes."""
        self._check(self._runtime.cudaMemsetAsync(address, 0, size, stream), "clearing memory")

    def copy(self, target: int, source: int, size: int, direction: int, stream: int) -> None:
        """Copy bytes; a copy to the host is complete after `synchronize`."""
        self._check(self._runtime.cudaMemcpyAsync(target, source, size, direction, stream), "copying")

    def copy_rows(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        """Copy `rows` pieces of `width` bytes that lie `pitch` bytes apart, from and to the device or the host."""
        copied = self._runtime.cudaMemcpy2D(target, target_pitch, source, source_pitch, width, rows, BY_ADDRESS)
        self._check(copied, "copying rows")

    def finish(self) -> None:
        """Wait for everything on the device."""
        self._check(self._runtime.cudaDeviceSynchronize(), "waiting for the GPU")

    def stream(self) -> int:
        """A new stream."""
        return self._made("cudaStreamCreate", "a stream")

    def synchronize(self, stream: int) -> None:
        self._check(self._runtime.cudaStreamSynchronize(stream), "running the model")

    def destroy_stream(self, stream: int) -> None:
        self._check(self._runtime.cudaStreamDestroy(stream), "closing a stream")

    def begin_capture(self, stream: int) -> None:
        """Record what is put on the stream, instead of running it."""
        self._check(self._runtime.cudaStreamBeginCapture(stream, _CAPTURE_THREAD_LOCAL), "recording a graph")

    def end_capture(self, stream: int) -> int:
        """What was recorded, ready to be launched."""
        graph = c_void_p()
        self._check(self._runtime.cudaStreamEndCapture(stream, byref(graph)), "recording a graph")
        try:
            executable = c_void_p()
            made = self._runtime.cudaGraphInstantiateWithFlags(byref(executable), graph, 0)
            self._check(made, "preparing a graph")
        finally:
            self._runtime.cudaGraphDestroy(graph)
        return executable.value or 0

    def launch(self, graph: int, stream: int) -> None:
        self._check(self._runtime.cudaGraphLaunch(graph, stream), "running a graph")

    def destroy_graph(self, graph: int) -> None:
        self._check(self._runtime.cudaGraphExecDestroy(graph), "dropping a graph")

    def _attribute(self, which: int) -> int:
        value = c_int()
        self._check(self._runtime.cudaDeviceGetAttribute(byref(value), which, self.device), "asking the GPU")
        return value.value

    def _made(self, function: str, what: str, *arguments: Any) -> int:
        handle = c_void_p()
        self._check(getattr(self._runtime, function)(byref(handle), *arguments), f"allocating {what}")
        return handle.value or 0

    def _check(self, code: int, doing: str) -> None:
        """Raise ResourceLimitError when memory ran out, BadInputError without a usable driver or GPU."""
        if code == 0:
            return
        text = (self._runtime.cudaGetErrorString(code) or b"unknown error").decode("utf-8", "replace")
        if code == _OUT_OF_MEMORY:
            raise ResourceLimitError(f"GPU memory ran out while {doing}: use a smaller context or recipe")
        if code in (_NO_DRIVER, _NO_DEVICE):
            raise BadInputError(f"no GPU can be used here ({text}): install NVIDIA's driver, or use another backend")
        raise InferencePioError(f"CUDA failed while {doing}: {text} (error {code})")


def open_cuda(major: int, device: int = 0) -> Cuda:
    """The CUDA runtime of a major version; raises BadInputError when it or the driver is missing."""
    name = VERSIONS[major]
    runtime = _library(name)
    if runtime is None:
        package = f"nvidia-cuda-runtime-cu{major}" if major < UNNUMBERED else f"'nvidia-cuda-runtime=={major}.*'"
        raise BadInputError(f"{name} cannot be found: install it with pip install {package}, or CUDA {major}")
    driver = _library("libcuda.so.1")
    if driver is None:
        raise BadInputError("libcuda.so.1 cannot be found: install NVIDIA's driver, or use another backend")
    return Cuda(runtime, driver, device)


def _library(name: str) -> Any:
    """A shared library from the system, or from NVIDIA's packages; None where there is none."""
    for place in (name, *map(str, packaged(name))):
        try:
            return ctypes.CDLL(place)
        except OSError:
            continue
    return None


def _mb(size: int) -> str:
    return f"{-(-size // 1_000_000)} MB"
