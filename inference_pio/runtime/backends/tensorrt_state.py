"""One sequence on a GPU: its caches, the values on their way through the engines, and recorded graphs for decoding."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_pio.artifact.manifest import CACHE_ITEM_BYTES
from inference_pio.errors import InferencePioError, ResourceLimitError
from inference_pio.runtime.backends.blocks import Step
from inference_pio.runtime.backends.cuda_library import ON_DEVICE, TO_DEVICE, TO_HOST, Cuda

if TYPE_CHECKING:
    from inference_pio.runtime.backends.tensorrt import TensorRTBlocks

FLOAT = 4
"""Bytes of a value that goes in or out of an engine."""
CACHE, PRESENT = "past_key_values.", "present."
HIDDEN, NEXT_HIDDEN, EXPERTS_INPUT, EXPERTS_OUTPUT = (
    "hidden_states",
    "next_hidden_states",
    "experts_input",
    "experts_output",
)


class DeviceBuffers:
    """Named pieces of device memory that grow; `size` is what they take in all."""

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
        for name in list(self._held):
            self._drop(name)

    def _drop(self, name: str) -> None:
        address, _ = self._held.pop(name, (0, 0))
        if address:
            self._cuda.free(address)


class TensorRTBlockState:
    """Caches [1, capacity, G, D] on the device, by the part of their name behind `past_key_values.`"""

    def __init__(self, blocks: TensorRTBlocks) -> None:
        self._blocks, self._cuda, self._stream = blocks, blocks.cuda, blocks.stream
        self._spec = spec = blocks.spec
        self._row = spec.kv_heads * spec.head_dim * CACHE_ITEM_BYTES[spec.dtype]
        self._names = [f"{layer}.{kind}" for layer in range(spec.layers) for kind in spec.kinds]
        self._buffers = DeviceBuffers(self._cuda)
        self._shapes: dict[str, tuple[int, ...]] = {}
        """Of the inputs that are the same for all blocks."""
        self._step: Step | None = None
        self._turn = 0
        """Which of the two buffers holds the hidden states."""
        self._graphs: dict[tuple[int, int], tuple[int, int]] = {}
        """By block and bound rows: how often buffers had moved, and what was recorded then (0: ran once so far)."""
        self._host: dict[str, tuple[int, np.ndarray]] = {}

    def reserve(self, capacity: int, used: int) -> None:
        if capacity > self._blocks.cache_rows:
            raise ResourceLimitError(
                f"{capacity} rows of cache are needed and the engines were built for {self._blocks.cache_rows}: build "
                "them again with a larger --max-context"
            )
        size, kept = capacity * self._row, used * self._row
        self._check_memory(size * len(self._names), capacity)
        for name in self._names:
            new = self._cuda.allocate(size, f"a cache of {capacity} rows")
            self._cuda.clear(new + kept, size - kept, self._stream)
            if kept:
                self._cuda.copy(new, self._buffers.address(CACHE + name), kept, ON_DEVICE, self._stream)
                self._cuda.synchronize(self._stream)
            self._buffers.replace(CACHE + name, new, size)

    def start(self, step: Step) -> None:
        self._cuda.use()
        self._step, self._turn = step, 0
        self._shapes = {name: array.shape for name, array in step.inputs.items()}
        for name, array in step.inputs.items():
            self._send(f"{HIDDEN}0" if name == HIDDEN else name, array)
        size = step.inputs[HIDDEN].nbytes
        self._buffers.address(f"{HIDDEN}1", size)

    def run_block(self, index: int) -> np.ndarray | None:
        step, graph = self._current(), self._blocks.graphs[index]
        self._run(index, step)
        for value in graph.outputs:
            if value.name.startswith(PRESENT):
                self._append(value.name, step)
        self._turn = 1 - self._turn
        if not any(value.name == EXPERTS_INPUT for value in graph.outputs):
            return None
        return self._fetch(EXPERTS_INPUT, (1, step.count, self._blocks.hidden_size))

    def put_experts(self, output: np.ndarray) -> None:
        self._send(EXPERTS_OUTPUT, output)

    def run_head(self, keep: int) -> np.ndarray:
        step, blocks = self._current(), self._blocks
        graph, width = blocks.graphs[-1], blocks.hidden_size * FLOAT
        for value in graph.inputs:  # only the last rows, at an address of their own, which is aligned
            held = f"{HIDDEN}{self._turn}" if value.name == HIDDEN else value.name
            source = self._buffers.address(held) + (step.count - keep) * width
            target = self._buffers.address(f"head.{value.name}", keep * width)
            self._cuda.copy(target, source, keep * width, ON_DEVICE, self._stream)
        logits = self._buffers.address("logits", keep * blocks.vocab_size * FLOAT)
        context = blocks.contexts[-1][_profile(keep)]
        for value in graph.inputs:
            context.set_input_shape(value.name, (1, keep, blocks.hidden_size))
            context.set_tensor_address(value.name, self._buffers.address(f"head.{value.name}"))
        context.set_tensor_address("logits", logits)
        self._enqueue(context, graph.file)
        return self._fetch("logits", (1, keep, blocks.vocab_size))[0]

    def save(self, start: int, stop: int) -> np.ndarray:
        shape = (len(self._names), stop - start, self._spec.kv_heads, self._spec.head_dim)
        payload = np.empty(shape, self._spec.dtype)
        for array, name in zip(payload, self._names, strict=True):
            source = self._buffers.address(CACHE + name) + start * self._row
            self._cuda.copy(array.ctypes.data, source, array.nbytes, TO_HOST, self._stream)
        self._cuda.synchronize(self._stream)
        return payload

    def restore(self, payload: np.ndarray, start: int, stop: int) -> None:
        held = np.ascontiguousarray(payload)
        for array, name in zip(held, self._names, strict=True):
            target = self._buffers.address(CACHE + name) + start * self._row
            self._cuda.copy(target, array.ctypes.data, array.nbytes, TO_DEVICE, self._stream)
        self._cuda.synchronize(self._stream)

    def release(self) -> None:
        self._cuda.use()
        self._cuda.synchronize(self._stream)
        for _, recorded in self._graphs.values():
            if recorded:
                self._cuda.destroy_graph(recorded)
        self._graphs = {}
        for address, _ in self._host.values():
            self._cuda.free_host(address)
        self._host = {}
        self._buffers.release()

    def _run(self, index: int, step: Step) -> None:
        """Run a block; from the third time on with the same shapes and addresses, a decoding step is a recorded graph.

        TensorRT prepares itself for new shapes while it enqueues, which cannot be recorded, hence the first time.
        """
        profile, key = _profile(step.count), (index, step.bound)
        context = self._blocks.contexts[index][profile]
        outputs = self._bind(context, index, step)
        moved, recorded = self._graphs.get(key, (-1, 0))
        if profile == 0 or self._buffers.moved != moved:
            self._enqueue(context, self._blocks.graphs[index].file)
            if recorded:
                self._cuda.destroy_graph(recorded)
                self._graphs.pop(key)
            if profile:
                self._graphs[key] = self._buffers.moved, 0
        elif recorded:
            self._cuda.launch(recorded, self._stream)
        else:
            self._cuda.begin_capture(self._stream)
            try:
                self._enqueue(context, self._blocks.graphs[index].file)
            finally:
                recorded = self._cuda.end_capture(self._stream)
            self._graphs[key] = moved, recorded
            self._cuda.launch(recorded, self._stream)
        del outputs

    def _bind(self, context: Any, index: int, step: Step) -> Mapping[str, int]:
        graph, spec = self._blocks.graphs[index], self._spec
        hidden = (1, step.count, self._blocks.hidden_size)
        for value in graph.inputs:
            name = value.name
            shape = self._shapes.get(name, hidden)
            held = f"{HIDDEN}{self._turn}" if name == HIDDEN else name
            if name.startswith(CACHE):
                shape = (1, step.bound, spec.kv_heads, spec.head_dim)
            context.set_input_shape(name, shape)
            context.set_tensor_address(name, self._buffers.address(held))
        outputs = {}
        for value in graph.outputs:
            name, size = value.name, int(np.prod(hidden)) * FLOAT
            if name.startswith(PRESENT):
                size = step.count * self._row
            held = f"{HIDDEN}{1 - self._turn}" if name == NEXT_HIDDEN else name
            outputs[name] = self._buffers.address(held, size)
            context.set_tensor_address(name, outputs[name])
        return outputs

    def _append(self, name: str, step: Step) -> None:
        """Put new rows behind those in use."""
        cache = self._buffers.address(CACHE + name.removeprefix(PRESENT))
        target = cache + step.length * self._row
        self._cuda.copy(target, self._buffers.address(name), step.count * self._row, ON_DEVICE, self._stream)

    def _enqueue(self, context: Any, file: str) -> None:
        if not context.execute_async_v3(self._stream):
            raise InferencePioError(f"TensorRT failed in {file}: {self._blocks.error()}")

    def _send(self, name: str, array: np.ndarray) -> None:
        """Copy an array to the device; it may be overwritten afterwards."""
        held = np.ascontiguousarray(array, np.float32)
        target = self._buffers.address(name, held.nbytes)
        self._cuda.copy(target, held.ctypes.data, held.nbytes, TO_DEVICE, self._stream)
        if held is not array:
            self._cuda.synchronize(self._stream)  # the copy made here must live until it was read

    def _fetch(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """What a buffer holds, float32 of `shape` in host memory of its own, overwritten by the next call."""
        size = int(np.prod(shape)) * FLOAT
        address, view = self._host.get(name, (0, np.empty(0, np.uint8)))
        if view.nbytes < size:
            if address:
                self._cuda.free_host(address)
            address = self._cuda.allocate_host(size)
            view = np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)
            self._host[name] = address, view
        self._cuda.copy(address, self._buffers.address(name), size, TO_HOST, self._stream)
        self._cuda.synchronize(self._stream)
        return view[:size].view(np.float32).reshape(shape)

    def _check_memory(self, needed: int, capacity: int) -> None:
        free, _ = self._cuda.free_and_total()
        if needed > free:
            raise ResourceLimitError(
                f"a cache of {capacity} rows needs {needed // 10**6} MB of GPU memory and {free // 10**6} MB are free: "
                "ask for fewer tokens, or open with a smaller max_context"
            )

    def _current(self) -> Step:
        assert self._step is not None
        return self._step


def _profile(count: int) -> int:
    """The profile for a number of new tokens: 0 for several, 1 for one."""
    return int(count == 1)
