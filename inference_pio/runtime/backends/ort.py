"""ONNX Runtime: a decoder's session, and per sequence a set of bindings that stay in place from token to token."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from inference_pio.artifact.latent_rows import rows_to_read
from inference_pio.artifact.manifest import CacheSpec, Manifest
from inference_pio.errors import BadInputError, InferencePioError
from inference_pio.runtime.backends.device_memory import DeviceMemory
from inference_pio.runtime.backends.ort_device import CANDIDATE_OUTPUTS, SEEN, TEMPERATURES, DeviceSequence
from inference_pio.runtime.backends.ort_session import (
    GROWTH,
    KEEP_INPUT,
    check_version,
    first_line,
    import_onnxruntime,
    open_session,
    ort_errors,
)
from inference_pio.runtime.backends.rotary_tables import RotaryTables
from inference_pio.runtime.candidates import Query
from inference_pio.runtime.memory import MemoryBudget
from inference_pio.runtime.vision.features import ChunkImages

IMAGE_MASK, IMAGE_EMBEDS, DEEPSTACK_EMBEDS = "image_mask", "image_embeds", "deepstack_embeds."
CACHE_DTYPES = {
    "float32": (np.float32, "tensor(float)"),
    "float16": (np.float16, "tensor(float16)"),
    "bfloat16": (np.uint16, "tensor(bfloat16)"),
    "int8": (np.int8, "tensor(int8)"),
}
"""Of a manifest's cache dtype: numpy's, and the name that ONNX Runtime gives to it."""
SLAB_BYTES = 16 << 20
"""Cache buffers are cut from pieces of at least this size, which get huge pages where there are any (numpy asks for
them from 4 MB on); over small pages reading an int8 cache takes up to twice as long."""


class OrtBackend:
    """A decoder graph in an ONNX Runtime session.

    `mapped` is its prepacked form, where that is used. With a `memory`, which may be the host's, sequences keep their
    cache and logits in it, and the graph must have candidate outputs.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        threads: int,
        budget: MemoryBudget,
        mapped: Path | None = None,
        memory: DeviceMemory | None = None,
    ) -> None:
        ort = import_onnxruntime()
        check_version(ort.__version__, manifest.requires.packages.get("onnxruntime", "0"))
        self.ort = ort
        self.spec: CacheSpec = manifest.cache
        self.positions = manifest.positions
        self.vocab_size = manifest.model.vocab_size
        self.hidden_size = manifest.model.hidden_size
        self.budget = budget
        graph = manifest.graph("decoder")
        if graph is None:
            raise BadInputError(f"the manifest in {folder} lists no decoder: export the artifact again")
        self.memory = memory
        self.session = open_session(mapped or folder / graph.file, threads, memory)
        self.paged = memory is not None and _is_paged(self.session)
        """Whether the cache's tokens come in blocks, [blocks, 256, heads, head_dim]; one head has the same memory."""
        _check_graph(self.session, manifest, folder, candidates=memory is not None, paged=self.paged)
        shapes = {value.name: value.shape for value in self.session.get_outputs()}
        self.candidates: int = shapes["candidate_ids"][2] if memory is not None else 0
        """How many of the best logits the graph gives."""
        names = [value.name for value in self.session.get_overridable_initializers()]
        self.image_inputs = [name for name in names if name == IMAGE_EMBEDS or name.startswith(DEEPSTACK_EMBEDS)]
        """Of the decoder, in the order of `ChunkImages.layers`."""
        self.image_inputs.sort(key=lambda name: (name != IMAGE_EMBEDS, len(name), name))

        self.shrink_arena = ort.RunOptions()
        """For the first step after a prompt: gives the memory of the prompt's activations back."""
        self.shrink_arena.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def sequence(self) -> OrtSequence | DeviceSequence:
        return OrtSequence(self) if self.memory is None else DeviceSequence(self, self.memory)

    def image_values(self, images: ChunkImages | None) -> list[tuple[str, np.ndarray]]:
        """The decoder's inputs for a chunk's images; without any, rows of zeros that change nothing."""
        names = self.image_inputs
        if images is None:
            layers = np.zeros((len(names), 1, 1, self.hidden_size), np.float32)
            images = ChunkImages(np.zeros((1, 1), np.bool_), layers)
        pairs = zip(names, images.layers, strict=False)  # a decoder cut short takes fewer
        return [(IMAGE_MASK, images.mask), *pairs]

    def close(self) -> None:
        self.session = None


class OrtSequence:
    """The cache buffers of one sequence, bound as past and as present, and the bindings around them.

    Keys and values are bound whole, because the fused attention is told how much of them counts. Operators on latents
    read all that they are given, so they get the rows in use (with one head these lie together), and at a step over
    one token a few more, `rows_to_read`, which are zeros until tokens fill them.
    """

    def __init__(self, backend: OrtBackend) -> None:
        self.length = 0
        self.run_seconds = 0.0
        self._backend = backend
        self._binding = backend.session.io_binding()
        self._buffers: list[np.ndarray] = []
        self._capacity = 0
        self._reserved = 0
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

    def reserve(self, tokens: int) -> None:
        if tokens <= self._capacity:
            return
        capacity = -(-max(tokens, self._capacity + self._capacity // 4) // GROWTH) * GROWTH
        spec = self._backend.spec
        size = capacity * spec.bytes_per_token
        self._backend.budget.take(size - self._reserved, f"a key/value cache of {capacity} tokens")
        self._reserved = size
        old, self._buffers = self._buffers, _cache_buffers(spec, capacity)
        for index, buffer in enumerate(self._buffers):
            if old:
                buffer[:, :, : self.length] = old[index][:, :, : self.length]
                old[index] = buffer  # frees the old buffers before many new ones are touched
            if not self._exact:
                self._bind_cache(index, buffer)
        self._rows = 0
        self._capacity = capacity
        self._ones = np.ones((1, capacity), np.int64)
        if self._tables is not None:
            self._tables.resize(capacity)
            self._bind_input("cos_cache", self._tables.cos)
            self._bind_input("sin_cache", self._tables.sin)

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
        dtype = CACHE_DTYPES[spec.dtype][0]
        payload = np.empty((len(self._buffers), spec.kv_heads, stop - start, spec.head_dim), dtype)
        for index, buffer in enumerate(self._buffers):
            payload[index] = buffer[0, :, start:stop]
        return payload

    def restore(self, payload: np.ndarray, start: int, stop: int) -> None:
        self.reserve(stop)
        for index, buffer in enumerate(self._buffers):
            buffer[0, :, start:stop] = payload[index]
        self.length = stop
        self._rows = 0

    def clear(self) -> None:
        self.length = 0
        self._rows = 0
        self.run_seconds = 0.0
        self.place(np.zeros((3, 0), np.int64), 0)

    def release(self) -> None:
        """Give the buffers back to the memory budget; the sequence is unusable afterwards."""
        self._binding = None
        self._buffers = []
        self._backend.budget.give(self._reserved)
        self._reserved = 0

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


def _cache_buffers(spec: CacheSpec, capacity: int) -> list[np.ndarray]:
    """Zeros [1, kv_heads, capacity, head_dim] per layer and kind (keys, values), layer by layer."""
    dtype, shape = CACHE_DTYPES[spec.dtype][0], (1, spec.kv_heads, capacity, spec.head_dim)
    each = len(spec.kinds) * spec.layers
    slab = min(each, max(1, -(-SLAB_BYTES * each // (capacity * spec.bytes_per_token))))
    sizes = [min(slab, each - start) for start in range(0, each, slab)]
    return [buffer for size in sizes for buffer in np.zeros((size, *shape), dtype)]


def _is_paged(session: Any) -> bool:
    caches = [value.shape for value in session.get_inputs() if value.name.startswith("past_key_values.")]
    return bool(caches) and len(caches[0]) == 4 and caches[0][1] == GROWTH and caches[0][2] == 1


def _check_graph(session: Any, manifest: Manifest, folder: Path, candidates: bool, paged: bool) -> None:
    """Raise BadInputError unless inputs and outputs are those that the manifest's cache and vocabulary imply.

    With `candidates` the outputs of `ort_device` must be there as well; a `paged` cache has blocks of tokens.
    """
    cache = manifest.cache
    values = (*session.get_inputs(), *session.get_outputs())
    found = {value.name: value.shape for value in values}
    optional = {value.name for value in session.get_overridable_initializers()}
    expected: dict[str, dict[int, int]] = {"input_ids": {}, "attention_mask": {}}
    expected["logits"] = {2: manifest.model.vocab_size}
    if manifest.positions is not None:
        expected |= {name: {1: len(manifest.positions.inverse_frequencies)} for name in ("cos_cache", "sin_cache")}
    for layer in range(min(cache.layers, len(found))):
        for name in (f"past_key_values.{layer}", f"present.{layer}"):
            sizes = {1: GROWTH, 2: cache.kv_heads} if paged else {1: cache.kv_heads}
            expected |= {f"{name}.{kind}": {**sizes, 3: cache.head_dim} for kind in cache.kinds}
    if candidates:
        expected |= {name: {1: 1} for name in CANDIDATE_OUTPUTS}
    plausible = len(set(cache.kinds)) == len(cache.kinds) and ("latent" not in cache.kinds or cache.kv_heads == 1)
    same = (
        plausible
        and found.keys() == expected.keys()
        and all(
            axis < len(found[name]) and found[name][axis] == size
            for name, sizes in expected.items()
            for axis, size in sizes.items()
        )
    )
    if manifest.positions is not None:
        same &= len(manifest.positions.streams) == len(manifest.positions.inverse_frequencies)
    held = CACHE_DTYPES.get(cache.dtype, (None, None))[1]
    same &= all(value.type == held for value in values if value.name.startswith(("past_key_values.", "present.")))
    needed = {KEEP_INPUT} if manifest.vision is None else {KEEP_INPUT, IMAGE_MASK, IMAGE_EMBEDS}
    needed |= {TEMPERATURES, SEEN} if candidates else set()
    if not same or not needed <= optional:
        raise BadInputError(
            f"the graph in {folder} has other inputs or outputs than its manifest implies: copy or export the artifact "
            "again"
        )
