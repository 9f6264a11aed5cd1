"""The part of CUDA's driver API that the kernels need, through ctypes: one GPU, its memory, modules and events."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference_pio.errors import BadInputError, InferencePioError, ResourceLimitError

LIBRARY = "libcuda.so.1"
OUT_OF_MEMORY = 2
ATTRIBUTES = {
    "threads_per_block": 1,
    "memory_clock_khz": 36,
    "memory_bits": 37,
    "multiprocessors": 16,
    "major": 75,
    "minor": 76,
}
"""Numbers of `cuDeviceGetAttribute`."""


@dataclass(frozen=True)
class Limits:
    """What a GPU offers: `capability` is 61 for 6.1, `bandwidth` bytes per second of its memory, by clock and width."""

    name: str
    capability: int
    multiprocessors: int
    threads_per_block: int
    bandwidth: int


class Driver:
    """A GPU, with its primary context; close it when nothing of it is used any more.

    Raises BadInputError without a driver or GPU, InferencePioError with the driver's own words when a call fails.
    """

    def __init__(self, index: int = 0, library: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise BadInputError(f"no NVIDIA driver can be loaded ({error}): install one, or use the CPU") from None
        self.library = library
        self._device, self._context, count = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_int()
        self.call("cuInit", 0)
        self.call("cuDeviceGetCount", ctypes.byref(count))
        if not 0 <= index < count.value:
            raise BadInputError(f"GPU {index} does not exist, this machine has {count.value}: choose another one")
        self.call("cuDeviceGet", ctypes.byref(self._device), index)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self.limits = self._limits()

    def close(self) -> None:
        """Let the context go, and with it everything that was made in it."""
        if self._context:
            self._context = ctypes.c_void_p()
            self.call("cuDevicePrimaryCtxRelease_v2", self._device)

    def call(self, function: str, *arguments: object) -> None:
        """Call the driver; raises InferencePioError when it fails."""
        self._check(function, getattr(self._library, function)(*arguments))

    def enter(self) -> None:
        """Make the context that of the calling thread."""
        self.call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """The address of `size` new bytes; raises ResourceLimitError when the GPU has not so many."""
        self.enter()
        address = ctypes.c_uint64()
        status = self._library.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size))
        if status == OUT_OF_MEMORY:
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
            raise ResourceLimitError(
                f"{self.limits.name} has {free.value >> 20} MiB free and {max(size >> 20, 1)} are needed: free some, "
                "or use a shorter context"
            )
        self._check("cuMemAlloc_v2", status)
        return address.value

    def functions(self, image: bytes, names: Sequence[str]) -> dict[str, ctypes.c_void_p]:
        """Kernels of a cubin or of PTX, by name; they live as long as the context."""
        self.enter()
        module = ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(image))
        found = {name: ctypes.c_void_p() for name in names}
        for name, function in found.items():
            self.call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        return found

    def synchronize(self) -> None:
        """Wait until the GPU has done everything; raises InferencePioError for what went wrong meanwhile."""
        self.enter()
        self.call("cuCtxSynchronize")

    def _limits(self) -> Limits:
        name, found = ctypes.create_string_buffer(256), {}
        self.call("cuDeviceGetName", name, 256, self._device)
        for key, number in ATTRIBUTES.items():
            value = ctypes.c_int()
            self.call("cuDeviceGetAttribute", ctypes.byref(value), number, self._device)
            found[key] = value.value
        bandwidth = 2 * found.pop("memory_clock_khz") * 1000 * found.pop("memory_bits") // 8
        capability = 10 * found.pop("major") + found.pop("minor")
        return Limits(name.value.decode(), capability, bandwidth=bandwidth, **found)

    def _check(self, function: str, status: int) -> None:
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(text))
            raise InferencePioError(f"{function} failed ({status}): {(text.value or b'unknown error').decode()}")


class DeviceArray:
    """An array of a shape and dtype in a GPU's memory, in C order; free it, or use `with`."""

    def __init__(self, driver: Driver, shape: Sequence[int], dtype: type[np.generic]) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.size = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        self._driver = driver
        self.address = driver.allocate(max(self.size, 1))
        self._held = True

    @classmethod
    def of(cls, driver: Driver, values: np.ndarray) -> DeviceArray:
        """A copy of host values."""
        array = cls(driver, values.shape, values.dtype.type)
        array.write(values)
        return array

    def write(self, values: np.ndarray) -> None:
        """Copy host values in; shape and dtype must agree."""
        if values.shape != self.shape or values.dtype != self.dtype:
            raise BadInputError(
                f"an array {self.dtype} {list(self.shape)} cannot take {values.dtype} {list(values.shape)}: convert it"
            )
        self._driver.enter()
        contiguous = np.ascontiguousarray(values)
        pointer = ctypes.c_void_p(contiguous.ctypes.data)
        self._driver.call("cuMemcpyHtoD_v2", ctypes.c_uint64(self.address), pointer, ctypes.c_size_t(self.size))

    def read(self) -> np.ndarray:
        """A copy on the host, once everything before is done."""
        values = np.empty(self.shape, self.dtype)
        self._driver.enter()
        pointer = ctypes.c_void_p(values.ctypes.data)
        self._driver.call("cuMemcpyDtoH_v2", pointer, ctypes.c_uint64(self.address), ctypes.c_size_t(self.size))
        return values

    def expect(self, what: str, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        """Raise BadInputError unless this array has that shape and dtype."""
        if self.shape != shape or self.dtype != dtype:
            raise BadInputError(f"{what} must be {np.dtype(dtype)} {list(shape)}, not {self.dtype} {list(self.shape)}")

    def free(self) -> None:
        """Give the memory back; does nothing a second time."""
        if self._held:
            self._driver.enter()
            self._held = False
            self._driver.call("cuMemFree_v2", ctypes.c_uint64(self.address))

    def __enter__(self) -> DeviceArray:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()
