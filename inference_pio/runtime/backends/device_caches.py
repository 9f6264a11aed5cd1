"""The key/value caches of one sequence on a GPU, and named pieces of its memory."""

from __future__ import annotations

import numpy as np

from inference_pio.artifact.manifest import CACHE_ITEM_BYTES, CacheSpec
from inference_pio.errors import ResourceLimitError
from inference_pio.runtime.backends.blocks import PAST
from inference_pio.runtime.backends.cuda_library import ON_DEVICE, TO_DEVICE, TO_HOST, Cuda


class DeviceBuffers:
    """Named pieces of device memory that grow."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._held: dict[str, tuple[int, int]] = {}
        self.moved = 0
        """How often an address has changed: what was recorded with the old one must not be launched any more."""

    def address(self, name: str, size: int = 0) -> int:
        """Where `name` is, with room for at least `size` bytes; what it held is lost when it grows."""
        address, held = self._held.get(name, (0, 0))
        if size > held or not address:
            self._drop(name)
            address = self._cuda.allocate(size, f"'{name}'")
            self._held[name] = address, size
            self.moved += 1
        return address

    def replace(self, name: str, address: int, size: int) -> None:
        """Hold another piece of memory under a name, and free the one before it."""
        self._drop(name)
        self._held[name] = address, size
        self.moved += 1

    def release(self) -> None:
        """Free everything."""
        for name in list(self._held):
            self._drop(name)

    def _drop(self, name: str) -> None:
        address, _ = self._held.pop(name, (0, 0))
        if address:
            self._cuda.free(address)


class DeviceCaches:
    """Caches in `buffers`, under the names of the blocks' inputs.

    Rows are outermost, [1, capacity, G, D]; where blocks write `in_place`, heads are, [1, G, capacity, D]. Either way a
    cache is so many planes (one, or one per head) of rows that lie together.
    """

    def __init__(self, cuda: Cuda, buffers: DeviceBuffers, spec: CacheSpec, in_place: bool, stream: int) -> None:
        self._cuda, self._buffers, self._spec, self._stream = cuda, buffers, spec, stream
        self._in_place = in_place
        self._planes = spec.kv_heads if in_place else 1
        self._row = spec.kv_heads // self._planes * spec.head_dim * CACHE_ITEM_BYTES[spec.dtype]
        """Bytes of a row in one plane."""
        self._names = [f"{PAST}{layer}.{kind}" for layer in range(spec.layers) for kind in spec.kinds]
        self._capacity = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of one cache, in all planes."""
        return self._row * self._planes

    def shape(self, bound: int) -> tuple[int, ...]:
        """The shape under which a block is given `bound` rows; it is given all of them where it writes in place."""
        heads, size = self._spec.kv_heads, self._spec.head_dim
        return (1, heads, self._capacity, size) if self._in_place else (1, bound, heads, size)

    def reserve(self, capacity: int, used: int) -> None:
        """Hold `capacity` rows, zeros behind the first `used`.

        Raises ResourceLimitError, before anything is allocated, when they do not fit: caches move one after the other.
        """
        size, old = capacity * self.row_bytes, self._capacity * self.row_bytes
        needed = (len(self._names) - 1) * (size - old) + size
        free, _ = self._cuda.free_and_total()
        if needed > free:
            mend = (
                "export with a smaller --context-length"
                if self._in_place
                else "ask for fewer tokens, or open with a smaller max_context"
            )
            raise ResourceLimitError(
                f"a cache of {capacity} rows needs {needed // 10**6} MB more of GPU memory and {free // 10**6} MB are "
                f"free: {mend}"
            )
        for name in self._names:
            new = self._cuda.allocate(size, f"a cache of {capacity} rows")
            self._cuda.clear(new, size, self._stream)
            for plane in range(self._planes if used else 0):
                source = self._buffers.address(name) + plane * self._capacity * self._row
                target = new + plane * capacity * self._row
                self._cuda.copy(target, source, used * self._row, ON_DEVICE, self._stream)
            self._cuda.synchronize(self._stream)
            self._buffers.replace(name, new, size)
        self._capacity = capacity

    def append(self, cache: str, rows: int, length: int, count: int) -> None:
        """Copy `count` new rows at address `rows` behind the `length` in use; only where rows are outermost."""
        target = self._buffers.address(cache) + length * self._row
        self._cuda.copy(target, rows, count * self._row, ON_DEVICE, self._stream)

    def save(self, start: int, stop: int) -> np.ndarray:
        """Rows of all caches: [caches, rows, G, D]."""
        payload = np.empty((len(self._names), *self._plane_shape(stop - start)), self._spec.dtype)
        self._move(payload, start, stop, TO_HOST)
        return payload if not self._in_place else np.ascontiguousarray(payload.transpose(0, 2, 1, 3))

    def restore(self, payload: np.ndarray, start: int, stop: int) -> None:
        """Put back what `save` returned."""
        held = payload.transpose(0, 2, 1, 3) if self._in_place else payload
        self._move(np.ascontiguousarray(held), start, stop, TO_DEVICE)

    def _plane_shape(self, rows: int) -> tuple[int, ...]:
        heads, size = self._spec.kv_heads, self._spec.head_dim
        return (heads, rows, size) if self._in_place else (rows, heads, size)

    def _move(self, host: np.ndarray, start: int, stop: int, direction: int) -> None:
        size = (stop - start) * self._row
        for index, name in enumerate(self._names):
            for plane in range(self._planes):
                device = self._buffers.address(name) + (plane * self._capacity + start) * self._row
                here = host[index].ctypes.data + plane * size
                target, source = (here, device) if direction == TO_HOST else (device, here)
                self._cuda.copy(target, source, size, direction, self._stream)
        self._cuda.synchronize(self._stream)
