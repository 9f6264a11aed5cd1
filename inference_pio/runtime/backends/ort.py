"""ONNX Runtime: one session, and per sequence a set of bindings that stay in place from token to token."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from inference_pio.artifact.manifest import CacheSpec, Manifest
from inference_pio.errors import BadInputError, InferencePioError
from inference_pio.runtime.cpu import PRECISE_PRODUCTS, products_saturate
from inference_pio.runtime.memory import MemoryBudget

KEEP_INPUT = "num_logits_to_keep"
GROWTH = 256
"""Cache capacity grows in steps of this many tokens, or a quarter of what is there."""
CACHE_DTYPES = {"float32": (np.float32, "tensor(float)"), "int8": (np.int8, "tensor(int8)")}
"""Of a manifest's cache dtype: numpy's, and the name that ONNX Runtime gives to it."""
SLAB_BYTES = 16 << 20
"""Cache buffers are cut from pieces of at least this size, which get huge pages where there are any (numpy asks for
them from 4 MB on); over small pages reading an int8 cache takes up to twice as long."""


def import_onnxruntime() -> Any:
    """The onnxruntime module; raises BadInputError that names the extra to install."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BadInputError(
            f"ONNX Runtime cannot be imported ({error}): install it with pip install 'inference-pio[cpu]'"
        ) from None
    return onnxruntime


def session_entries(ort: Any) -> dict[str, str]:
    """Session options by name that this CPU needs."""
    return {PRECISE_PRODUCTS: "1"} if products_saturate(ort) else {}


def session_options(ort: Any, threads: int) -> Any:
    """The options of every session."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised, and need not be printed as well
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    for name, value in session_entries(ort).items():
        options.add_session_config_entry(name, value)
    return options


class OrtBackend:
    """A decoder graph in an ONNX Runtime session on the CPU; `mapped` is its prepacked form, where that is used."""

    def __init__(
        self, folder: Path, manifest: Manifest, threads: int, budget: MemoryBudget, mapped: Path | None = None
    ) -> None:
        ort = import_onnxruntime()
        _check_version(ort.__version__, manifest.requires.packages.get("onnxruntime", "0"))
        self.ort = ort
        self.spec: CacheSpec = manifest.cache
        self.vocab_size = manifest.model.vocab_size
        self.budget = budget
        options = session_options(ort, threads)
        try:
            self.session = ort.InferenceSession(
                str(mapped or folder / manifest.graphs[0].file), options, providers=["CPUExecutionProvider"]
            )
        except _ort_errors(ort) as error:
            raise BadInputError(f"{folder} cannot be loaded by ONNX Runtime: {_first_line(error)}") from None
        _check_graph(self.session, manifest, folder)

        self.shrink_arena = ort.RunOptions()
        """For the first step after a prompt: gives the memory of the prompt's activations back."""
        self.shrink_arena.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def sequence(self) -> OrtSequence:
        return OrtSequence(self)

    def close(self) -> None:
        self.session = None


class OrtSequence:
    """The cache buffers of one sequence, bound as past and as present, and the bindings around them."""

    def __init__(self, backend: OrtBackend) -> None:
        self.length = 0
        self.run_seconds = 0.0
        self._backend = backend
        self._binding = backend.session.io_binding()
        self._buffers: list[np.ndarray] = []
        self._capacity = 0
        self._reserved = 0
        self._one_logit = np.empty((1, 1, backend.vocab_size), np.float32)
        self._one_token = np.zeros((1, 1), np.int64)
        self._ones = np.ones((1, 0), np.int64)
        self._bound = (0, 0)
        self._keep = np.ones(1, np.int64)
        self._bind_input(KEEP_INPUT, self._keep)

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
            self._bind_cache(index, buffer)
        self._capacity = capacity
        self._ones = np.ones((1, capacity), np.int64)

    def forward(self, tokens: np.ndarray, keep: int) -> np.ndarray:
        count = len(tokens)
        total = self.length + count
        self.reserve(total)
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
        started = time.perf_counter()
        try:
            self._backend.session.run_with_iobinding(self._binding, run_options)
        except _ort_errors(self._backend.ort) as error:
            raise InferencePioError(f"ONNX Runtime failed at position {total}: {_first_line(error)}") from None
        self.run_seconds += time.perf_counter() - started
        self.length = total
        return logits[0]

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

    def clear(self) -> None:
        self.length = 0
        self.run_seconds = 0.0

    def release(self) -> None:
        """Give the buffers back to the memory budget; the sequence is unusable afterwards."""
        self._binding = None
        self._buffers = []
        self._backend.budget.give(self._reserved)
        self._reserved = 0

    def _bind_cache(self, index: int, buffer: np.ndarray) -> None:
        layer, kind = divmod(index, 2)
        name = f"{layer}.{('key', 'value')[kind]}"
        value = self._backend.ort.OrtValue.ortvalue_from_numpy(buffer)
        self._binding.bind_ortvalue_input(f"past_key_values.{name}", value)
        self._binding.bind_ortvalue_output(f"present.{name}", value)

    def _bind_input(self, name: str, array: np.ndarray) -> None:
        self._binding.bind_ortvalue_input(name, self._backend.ort.OrtValue.ortvalue_from_numpy(array))

    def _bind_output(self, name: str, array: np.ndarray) -> None:
        self._binding.bind_ortvalue_output(name, self._backend.ort.OrtValue.ortvalue_from_numpy(array))


def _cache_buffers(spec: CacheSpec, capacity: int) -> list[np.ndarray]:
    """Zeros [1, kv_heads, capacity, head_dim] per layer for keys and for values, layer by layer."""
    dtype, shape = CACHE_DTYPES[spec.dtype][0], (1, spec.kv_heads, capacity, spec.head_dim)
    each = 2 * spec.layers
    slab = min(each, max(1, -(-SLAB_BYTES * each // (capacity * spec.bytes_per_token))))
    sizes = [min(slab, each - start) for start in range(0, each, slab)]
    return [buffer for size in sizes for buffer in np.zeros((size, *shape), dtype)]


def _check_graph(session: Any, manifest: Manifest, folder: Path) -> None:
    """Raise BadInputError unless inputs and outputs are those that the manifest's cache and vocabulary imply."""
    cache = manifest.cache
    values = (*session.get_inputs(), *session.get_outputs())
    found = {value.name: value.shape for value in values}
    optional = {value.name for value in session.get_overridable_initializers()}
    expected: dict[str, dict[int, int]] = {"input_ids": {}, "attention_mask": {}}
    expected["logits"] = {2: manifest.model.vocab_size}
    for layer in range(min(cache.layers, len(found))):
        for name in (f"past_key_values.{layer}", f"present.{layer}"):
            expected[f"{name}.key"] = expected[f"{name}.value"] = {1: cache.kv_heads, 3: cache.head_dim}
    same = found.keys() == expected.keys() and all(
        axis < len(found[name]) and found[name][axis] == size
        for name, sizes in expected.items()
        for axis, size in sizes.items()
    )
    held = CACHE_DTYPES.get(cache.dtype, (None, None))[1]
    same &= all(value.type == held for value in values if value.name.startswith(("past_key_values.", "present.")))
    if not same or KEEP_INPUT not in optional:
        raise BadInputError(
            f"the graph in {folder} has other inputs or outputs than its manifest implies: copy or export the artifact "
            "again"
        )


def _ort_errors(ort: Any) -> tuple[type[Exception], ...]:
    """Everything ONNX Runtime raises; its exceptions have no common base but Exception."""
    state = ort.capi.onnxruntime_pybind11_state
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile", "NotFound")
    more = ("NotImplemented", "RuntimeException", "EPFail", "EngineError")
    return (*(getattr(state, name) for name in names + more), RuntimeError, ValueError)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def _check_version(found: str, needed: str) -> None:
    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split("+")[0].split(".")[:2] if part.isdigit())

    if numbers(found) < numbers(needed):
        raise BadInputError(
            f"the artifact needs onnxruntime {needed} or newer and {found} is installed: pip install -U onnxruntime"
        )
