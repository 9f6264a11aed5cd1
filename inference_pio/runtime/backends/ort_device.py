"""Sequences whose cache and logits stay on a device; only tokens go there, and a few candidates come back.

The same code runs on the CPU, where the device's memory is the host's.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_pio.errors import BadInputError, InferencePioError, ResourceLimitError
from inference_pio.runtime.backends.cache_buffers import GROWTH, ITEMS
from inference_pio.runtime.backends.cached_sequence import CachedSequence
from inference_pio.runtime.backends.cuda import CUDA
from inference_pio.runtime.backends.device_memory import DeviceBuffer, DeviceMemory, check_free
from inference_pio.runtime.backends.ort_session import KEEP_INPUT, first_line, ort_errors
from inference_pio.runtime.backends.rotary_tables import RotaryTables
from inference_pio.runtime.candidates import Candidates, Query
from inference_pio.runtime.vision.features import ChunkImages

if TYPE_CHECKING:
    from inference_pio.runtime.backends.ort import OrtBackend

TEMPERATURES, SEEN = "candidate_temperatures", "seen_ids"
CANDIDATES = "candidate_ids"
"""The output by which a graph is known that leaves its logits on a device."""
CANDIDATE_OUTPUTS = {
    CANDIDATES: np.int64,
    "candidate_logits": np.float32,
    "candidate_masses": np.float32,
    "seen_logits": np.float32,
}
BFLOAT16 = 16
"""The standard's number of the type that numpy lacks."""


class DeviceSequence(CachedSequence):
    """The cache of one sequence on a device, bound as past and as present, and the bindings around it."""

    def __init__(self, backend: OrtBackend, memory: DeviceMemory) -> None:
        super().__init__(backend.budget, backend.spec.bytes_per_token)
        self._backend, self._memory = backend, memory
        self._binding = backend.session.io_binding()
        self._item = np.dtype(ITEMS[backend.spec.dtype])
        self._buffers: list[DeviceBuffer] = []
        self._exact = "latent" in backend.spec.kinds and not backend.paged
        self._logits: Any = None
        self._found: dict[str, np.ndarray] = {}
        self._held: dict[str, np.ndarray] = {}
        self._tables = None if backend.positions is None else RotaryTables(backend.positions)
        self._images_bound = False

    def place(self, positions: np.ndarray, ahead: int) -> None:
        """Give the first tokens these three positions, int64 [3, n], and all later ones their index plus `ahead`."""
        if self._tables is not None:
            self._tables.place(positions, ahead)
            if self._capacity:
                self._bind_tables()

    def forward(self, tokens: np.ndarray, keep: int, images: ChunkImages | None = None) -> np.ndarray:
        """Append `tokens` and copy the logits of the last `keep` positions, float32 [keep, V]."""
        self._run(tokens, keep, Query(), images)
        logits: np.ndarray = self._logits.numpy()[0].copy()  # on the CPU it is the buffer itself
        return logits

    def advance(self, tokens: np.ndarray, query: Query, images: ChunkImages | None = None) -> Candidates:
        """Append `tokens`; all logits stay on the device until somebody asks for them."""
        seen = np.zeros(0, np.int64) if query.seen is None else query.seen
        self._run(tokens, 1, query, images)
        ids, logits, masses, seen_logits = (self._found[name][0, 0] for name in CANDIDATE_OUTPUTS)
        return Candidates(
            self._backend.vocab_size, ids, logits, seen, seen_logits[: len(seen)], masses, self._fetch_last
        )

    def save(self, start: int, stop: int) -> np.ndarray:
        """A copy of the cache of positions `start` to `stop`, one contiguous array."""
        spec = self._backend.spec
        payload = np.empty((len(self._buffers), spec.kv_heads, stop - start, spec.head_dim), self._item)
        for part, buffer in zip(payload, self._buffers, strict=True):
            self._copy(part, buffer, start, to_host=True)
        return payload

    def _resize(self, capacity: int) -> None:
        """Raises ResourceLimitError when the device has no room."""
        spec, what = self._backend.spec, f"a key/value cache of {capacity} tokens"
        count, old, old_row = len(spec.kinds) * spec.layers, self._buffers, self._capacity * self._row_bytes
        row, used = capacity * self._row_bytes, self.length * self._row_bytes
        size, old_size = spec.kv_heads * row, spec.kv_heads * old_row
        check_free(self._memory, count * size - (count - 1) * old_size, what)
        self._buffers = []
        for index in range(count):
            buffer = DeviceBuffer(self._memory, size, what)
            if old:
                self._memory.copy_rows(buffer.address, row, old[index].address, old_row, used, spec.kv_heads)
                old[index] = buffer  # frees the old buffers one by one
            self._buffers.append(buffer)
            if not self._exact:
                self._bind_cache(index, capacity)
        self._ones = self._on_device(np.ones((1, capacity), np.int64))
        if self._tables is not None:
            self._tables.resize(capacity)
            self._bind_tables()

    def _write(self, payload: np.ndarray, start: int, stop: int) -> None:
        for part, buffer in zip(np.ascontiguousarray(payload), self._buffers, strict=True):
            self._copy(part, buffer, start, to_host=False)

    def _free(self) -> None:
        self._binding = self._logits = None
        self._buffers = []

    @property
    def _row_bytes(self) -> int:
        """A token's bytes in one head of one buffer."""
        return self._backend.spec.head_dim * self._item.itemsize

    def _run(self, tokens: np.ndarray, keep: int, query: Query, images: ChunkImages | None) -> None:
        total = self.length + len(tokens)
        self.reserve(total)
        if images is not None or self._images_bound:
            self._bind_images(images)
        self._bind_host("input_ids", np.ascontiguousarray(tokens, np.int64)[None])
        self._bind_host(KEEP_INPUT, np.array([keep], np.int64))
        self._bind_host(TEMPERATURES, np.array(query.temperatures, np.float32))
        seen = np.zeros(1, np.int64) if query.seen is None or not len(query.seen) else query.seen
        self._bind_host(SEEN, np.array(seen, np.int64))
        self._bind_view("attention_mask", self._ones, np.int64, (1, total))
        for index in range(len(self._buffers) if self._exact else 0):
            self._bind_cache(index, total)
        if self._logits is None or self._logits.shape()[1] != keep:
            self._logits = self._empty((1, keep, self._backend.vocab_size), "float32")
            self._binding.bind_ortvalue_output("logits", self._logits)
        count = self._backend.candidates
        self._bind_found((count, count, len(query.temperatures), len(seen)))
        started = time.perf_counter()
        try:
            self._backend.session.run_with_iobinding(self._binding)
        except ort_errors(self._backend.ort) as error:
            if self._memory.kind != CUDA and self.length == 0:
                raise BadInputError(
                    f"the CPU cannot run this artifact, which was made for a GPU: open it there, or export it for "
                    f"ort-cpu ({first_line(error)})"
                ) from None
            raise InferencePioError(f"ONNX Runtime failed at position {total}: {first_line(error)}") from None
        self.run_seconds += time.perf_counter() - started
        self.length = total

    def _bind_found(self, sizes: tuple[int, ...]) -> None:
        """Arrays of the host that the candidates are written to."""
        for (name, dtype), size in zip(CANDIDATE_OUTPUTS.items(), sizes, strict=True):
            if name not in self._found or self._found[name].shape[2] != size:
                self._found[name] = np.zeros((1, 1, size), dtype)
                value = self._backend.ort.OrtValue.ortvalue_from_numpy(self._found[name])
                self._binding.bind_ortvalue_output(name, value)

    def _fetch_last(self) -> np.ndarray:
        logits: np.ndarray = self._logits.numpy()[0, -1].copy()
        return logits

    def _copy(self, rows: np.ndarray, buffer: DeviceBuffer, start: int, *, to_host: bool) -> None:
        """Copy `rows` [heads, n, head_dim] to or from positions `start` on of a buffer."""
        width, pitch = rows.shape[1] * self._row_bytes, self._capacity * self._row_bytes
        there = buffer.address + start * self._row_bytes
        if to_host:
            self._memory.copy_rows(rows.ctypes.data, width, there, pitch, width, len(rows))
        else:
            self._memory.copy_rows(there, pitch, rows.ctypes.data, width, width, len(rows))

    def _empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A new value; raises ResourceLimitError where the device has no room, though it seemed to have."""
        kind = self._element(dtype)
        ort, memory = self._backend.ort, self._memory
        try:
            return ort.OrtValue.ortvalue_from_shape_and_type(shape, kind, memory.kind, memory.index)
        except ort_errors(ort) as error:
            raise ResourceLimitError(
                f"the device has no room for {dtype} {list(shape)} ({first_line(error)}): ask for fewer tokens, or "
                "lower max_context"
            ) from None

    @staticmethod
    def _element(dtype: str) -> Any:
        """What ONNX Runtime takes for the type of an element: numpy's, or the standard's number."""
        return BFLOAT16 if dtype == "bfloat16" else ITEMS[dtype]

    def _on_device(self, array: np.ndarray) -> Any:
        return self._backend.ort.OrtValue.ortvalue_from_numpy(array, self._memory.kind, self._memory.index)

    def _bind_cache(self, index: int, rows: int) -> None:
        """Bind the first `rows` of a cache, as past and as present."""
        spec, address = self._backend.spec, self._buffers[index].address
        name = f"{index // len(spec.kinds)}.{spec.kinds[index % len(spec.kinds)]}"
        shape: tuple[int, ...] = (1, spec.kv_heads, rows, spec.head_dim)
        if self._backend.paged:
            shape = (rows // GROWTH, GROWTH, spec.kv_heads, spec.head_dim)
        element, place = self._element(spec.dtype), (self._memory.kind, self._memory.index)
        self._binding.bind_input(f"past_key_values.{name}", *place, element, shape, address)
        self._binding.bind_output(f"present.{name}", *place, element, shape, address)

    def _bind_view(self, name: str, value: Any, dtype: type, shape: tuple[int, ...]) -> None:
        """The first elements of a value on the device, without a copy."""
        self._binding.bind_input(name, self._memory.kind, self._memory.index, dtype, shape, value.data_ptr())

    def _bind_host(self, name: str, array: np.ndarray) -> None:
        """An array of the host. A GPU copies it now; the CPU reads it when it runs, so it is held until the next."""
        self._held[name] = array
        self._binding.bind_ortvalue_input(name, self._backend.ort.OrtValue.ortvalue_from_numpy(array))

    def _bind_tables(self) -> None:
        assert self._tables is not None
        self._bind_host("cos_cache", self._tables.cos)
        self._bind_host("sin_cache", self._tables.sin)

    def _bind_images(self, images: ChunkImages | None) -> None:
        """Bind a chunk's images, or rows of zeros that change nothing: a binding cannot be taken back."""
        self._images_bound = images is not None
        for name, array in self._backend.image_values(images):
            self._bind_host(name, array)
