"""A sequence on ONNX Runtime's CPU kernels: cache buffers and bindings that stay in place from token to token."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from inference_pio.artifact.latent_rows import rows_to_read
from inference_pio.errors import InferencePioError
from inference_pio.runtime.backends.cache_buffers import ITEMS, host_buffers
from inference_pio.runtime.backends.cached_sequence import CachedSequence
from inference_pio.runtime.backends.ort_session import KEEP_INPUT, first_line, ort_errors
from inference_pio.runtime.backends.rotary_tables import RotaryTables
from inference_pio.runtime.candidates import Query
from inference_pio.runtime.vision.features import ChunkImages

if TYPE_CHECKING:
    from inference_pio.runtime.backends.ort import OrtBackend


class OrtSequence(CachedSequence):
    """The cache buffers of one sequence, bound as past and as present, and the bindings around them.

    Keys and values are bound whole, because the fused attention is told how much of them counts. Operators on latents
    read all that they are given, so they get the rows in use (with one head these lie together), and at a step over
    one token a few more, `rows_to_read`, which are zeros until tokens fill them.
    """

    def __init__(self, backend: OrtBackend) -> None:
        super().__init__(backend.budget, backend.spec.bytes_per_token)
        self._backend = backend
        self._binding = backend.session.io_binding()
        self._buffers: list[np.ndarray] = []
        self._exact = "latent" in backend.spec.kinds
        self._rows = 0
        self._one_logit = np.empty((1, 1, backend.vocab_size), np.float32)
        self._one_token = np.zeros((1, 1), np.int64)
        self._ones = np.ones((1, 0), np.int64)
        self._bound = (0, 0)
        self._keep = np.ones(1, np.int64)
        self._bind_input(KEEP_INPUT, self._keep)
        self._tables = None if backend.positions is None else RotaryTables(backend.positions)
        self._images_bound = False

    def place(self, positions: np.ndarray, ahead: int) -> None:
        if self._tables is not None:
            self._tables.place(positions, ahead)

    def forward(self, tokens: np.ndarray, keep: int, images: ChunkImages | None = None) -> np.ndarray:
        count = len(tokens)
        total = self.length + count
        rows = rows_to_read(total) if self._exact and count == 1 else total
        self.reserve(rows)
        if images is not None or self._images_bound:
            self._bind_images(images)
        logits = self._one_logit if keep == 1 else np.empty((1, keep, self._backend.vocab_size), np.float32)
        run_options = None
        if count == 1:
            self._one_token[0, 0] = tokens[0]
            if self._bound[0] > 1:
                run_options = self._backend.shrink_arena
        if self._bound != (count, keep) or count != 1 or keep != 1:
            ids = self._one_token if count == 1 else np.ascontiguousarray(tokens, np.int64)[None]
            self._keep[0] = keep
            self._bind_input("input_ids", ids)
            self._bind_output("logits", logits)
            self._bound = (count, keep)
        self._bind_input("attention_mask", self._ones[:, :total])
        if self._exact and rows != self._rows:
            self._bind_rows(total, rows)
        started = time.perf_counter()
        try:
            self._backend.session.run_with_iobinding(self._binding, run_options)
        except ort_errors(self._backend.ort) as error:
            raise InferencePioError(f"ONNX Runtime failed at position {total}: {first_line(error)}") from None
        self.run_seconds += time.perf_counter() - started
        self.length = total
        return logits[0]

    def advance(self, tokens: np.ndarray, query: Query, images: ChunkImages | None = None) -> np.ndarray:
        """The logits of the last position; the query is for devices that keep them."""
        logits: np.ndarray = self.forward(tokens, 1, images)[0]
        return logits

    def save(self, start: int, stop: int) -> np.ndarray:
        spec = self._backend.spec
        shape = (len(self._buffers), spec.kv_heads, stop - start, spec.head_dim)
        payload = np.empty(shape, ITEMS[spec.dtype])
        for index, buffer in enumerate(self._buffers):
            payload[index] = buffer[0, :, start:stop]
        return payload

    def clear(self) -> None:
        super().clear()
        self._rows = 0

    def _resize(self, capacity: int) -> None:
        old, self._buffers = self._buffers, host_buffers(self._backend.spec, capacity)
        for index, buffer in enumerate(self._buffers):
            if old:
                buffer[:, :, : self.length] = old[index][:, :, : self.length]
                old[index] = buffer  # frees the old buffers before many new ones are touched
            if not self._exact:
                self._bind_cache(index, buffer)
        self._rows = 0
        self._ones = np.ones((1, capacity), np.int64)
        if self._tables is not None:
            self._tables.resize(capacity)
            self._bind_input("cos_cache", self._tables.cos)
            self._bind_input("sin_cache", self._tables.sin)

    def _write(self, payload: np.ndarray, start: int, stop: int) -> None:
        for index, buffer in enumerate(self._buffers):
            buffer[0, :, start:stop] = payload[index]
        self._rows = 0

    def _free(self) -> None:
        self._binding = None
        self._buffers = []

    def _bind_images(self, images: ChunkImages | None) -> None:
        """Bind a chunk's images, or rows of zeros that change nothing: a binding cannot be taken back."""
        self._images_bound = images is not None
        for name, array in self._backend.image_values(images):
            self._bind_input(name, array)

    def _bind_rows(self, total: int, rows: int) -> None:
        """Bind the first `rows` rows of every buffer; those from `total` on, which no token has yet, become zeros."""
        for index, buffer in enumerate(self._buffers):
            buffer[:, :, total:rows] = 0
            self._bind_cache(index, buffer[:, :, :rows])
        self._rows = rows

    def _bind_cache(self, index: int, buffer: np.ndarray) -> None:
        kinds = self._backend.spec.kinds
        name = f"{index // len(kinds)}.{kinds[index % len(kinds)]}"
        value = self._backend.ort.OrtValue.ortvalue_from_numpy(buffer)
        self._binding.bind_ortvalue_input(f"past_key_values.{name}", value)
        self._binding.bind_ortvalue_output(f"present.{name}", value)

    def _bind_input(self, name: str, array: np.ndarray) -> None:
        self._binding.bind_ortvalue_input(name, self._backend.ort.OrtValue.ortvalue_from_numpy(array))

    def _bind_output(self, name: str, array: np.ndarray) -> None:
        self._binding.bind_ortvalue_output(name, self._backend.ort.OrtValue.ortvalue_from_numpy(array))
