"""A stand-in for CUDA's libraries: device memory is host memory, and wrong calls fail.

These are copies outside of allocated memory, use after free, and work that is put on a stream while it is recorded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from inference_pio.runtime.backends import cuda_library

OUT_OF_MEMORY, INVALID = 2, 1


class Function:
    """A C function as ctypes shows it: it can be given types."""

    def __init__(self, body: Callable[..., Any]) -> None:
        self._body = body
        self.argtypes: Any = None
        self.restype: Any = None

    def __call__(self, *arguments: Any) -> Any:
        return self._body(*arguments)


class FakeRuntime:
    """libcudart: memory, one stream at a time, recorded graphs. `calls` counts calls by name."""

    def __init__(self, memory: int = 8 << 30, devices: int = 1, capability: tuple[int, int] = (6, 1)) -> None:
        self.memory, self.devices, self.capability = memory, devices, capability
        self.held: dict[int, Any] = {}
        self.recording: list[Callable[[], None]] | None = None
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.calls: dict[str, int] = {}
        self.fetched: list[int] = []
        """Bytes of every copy to the host."""
        self.cudaGetErrorString = Function(lambda code: f"fake error {code}".encode())

    def __getattr__(self, name: str) -> Function:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        body = getattr(self, f"_{name.removeprefix('cuda')}")

        def counted(*arguments: Any) -> int:
            self.calls[name] = self.calls.get(name, 0) + 1
            return body(*arguments) or 0

        function = Function(counted)
        setattr(self, name, function)
        return function

    @property
    def used(self) -> int:
        return sum(ctypes.sizeof(buffer) for buffer in self.held.values())

    def enqueue(self, work: Callable[[], None]) -> None:
        """Run work, or record it."""
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def view(self, address: int, size: int) -> int:
        """Check that bytes lie in one allocation; returns the address."""
        for start, buffer in self.held.items():
            if start <= address and address + size <= start + ctypes.sizeof(buffer):
                return address
        raise AssertionError(f"{size} bytes at {address} are not allocated")

    def _GetDeviceCount(self, out: Any) -> None:
        out._obj.value = self.devices

    def _SetDevice(self, device: int) -> int:
        return 0 if device < self.devices else INVALID

    def _DeviceGetAttribute(self, out: Any, which: int, device: int) -> None:
        out._obj.value = self.capability[which - 75]

    def _MemGetInfo(self, free: Any, total: Any) -> None:
        free._obj.value, total._obj.value = self.memory - self.used, self.memory

    def _Malloc(self, out: Any, size: Any) -> int:
        if size.value + self.used > self.memory:
            return OUT_OF_MEMORY
        buffer = ctypes.create_string_buffer(b"\x7f" * size.value, size.value)  # garbage, not zeros
        out._obj.value = ctypes.addressof(buffer)
        self.held[ctypes.addressof(buffer)] = buffer
        return 0

    _MallocHost = _Malloc

    def _Free(self, address: int) -> None:
        del self.held[address]

    _FreeHost = _Free

    def _MemsetAsync(self, address: int, value: int, size: int, stream: int) -> None:
        ctypes.memset(self.view(address, size), value, size)

    def _MemcpyAsync(self, target: int, source: int, size: int, direction: int, stream: int) -> int:
        if self.recording is not None:
            return INVALID
        if direction in (cuda_library.TO_DEVICE, cuda_library.ON_DEVICE):
            self.view(target, size)
        if direction in (cuda_library.TO_HOST, cuda_library.ON_DEVICE):
            self.view(source, size)
        if direction == cuda_library.TO_HOST:
            self.fetched.append(size)
        ctypes.memmove(target, source, size)
        return 0

    def _Memcpy2D(self, to: int, to_pitch: int, source: int, pitch: int, width: int, rows: int, kind: int) -> int:
        if kind != cuda_library.BY_ADDRESS or width > min(to_pitch, pitch):
            return INVALID
        for row in range(rows):
            ctypes.memmove(self.view(to + row * to_pitch, width), self.view(source + row * pitch, width), width)
        return 0

    def _DeviceSynchronize(self) -> None:
        pass

    def _StreamCreate(self, out: Any) -> None:
        out._obj.value = 77

    def _StreamSynchronize(self, stream: int) -> int:
        return INVALID if self.recording is not None else 0

    def _StreamDestroy(self, stream: int) -> None:
        pass

    def _StreamBeginCapture(self, stream: int, mode: int) -> None:
        self.recording = []

    def _StreamEndCapture(self, stream: int, out: Any) -> None:
        number = 1000 + self.calls["cudaStreamEndCapture"]
        self.graphs[number], self.recording = self.recording or [], None
        out._obj.value = number

    def _GraphInstantiateWithFlags(self, out: Any, graph: Any, flags: int) -> None:
        out._obj.value = graph.value

    def _GraphDestroy(self, graph: Any) -> None:
        pass

    def _GraphLaunch(self, graph: int, stream: int) -> None:
        for work in self.graphs[graph]:
            work()

    def _GraphExecDestroy(self, graph: int) -> None:
        del self.graphs[graph]


class FakeDriver:
    """libcuda."""

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDeviceGetName(self, text: Any, size: int, device: int) -> int:
        text.value = b"Fake GTX 1060"
        return 0
