"""One sequence on a GPU: its caches, the values on their way through the engines, and recorded graphs for decoding."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_pio.artifact.manifest import CACHE_ITEM_BYTES
from inference_pio.errors import BadInputError, InferencePioError, ResourceLimitError
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
        self._size = 0
        """Bytes of one cache."""
        self._turn = 0
        """Which of the two buffers holds the hidden states."""
        self._graphs: dict[tuple[int, int], tuple[tuple[int, int], int]] = {}
        """By block and bound rows: how often addresses and shapes had changed, and what was recorded then (0: not)."""
        self._host: dict[str, tuple[int, np.ndarray]] = {}

    def reserve(self, capacity: int, used: int) -> None:
        if capacity > self._blocks.cache_rows:
            raise ResourceLimitError(
                f"{capacity} rows of cache are needed and the engines were built for {self._blocks.cache_rows}: build "
                "them again with a larger --max-context"
            )
        self._cuda.use()
        size, kept = capacity * self._row, used * self._row
        self._check_memory(size, capacity)
        for name in self._names:
            new = self._cuda.allocate(size, f"a cache of {capacity} rows")
            self._cuda.clear(new + kept, size - kept, self._stream)
            if kept:
                self._cuda.copy(new, self._buffers.address(CACHE + name), kept, ON_DEVICE, self._stream)
                self._cuda.synchronize(self._stream)
            self._buffers.replace(CACHE + name, new, size)
        self._size = size

    def start(self, step: Step) -> None:
        if self._blocks.closed:
            raise BadInputError("the engine is closed: open the artifact again")
        self._cuda.use()
        self._step, self._turn = step, 0
        self._shapes = {name: array.shape for name, array in step.inputs.items()}
        for name, array in step.inputs.items():
            self._send(f"{HIDDEN}0" if name == HIDDEN else name, array)
        self._buffers.address(f"{HIDDEN}1", step.inputs[HIDDEN].nbytes)

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
            source = self._buffers.address(self._held(value.name)) + (step.count - keep) * width
            target = self._buffers.address(f"head.{value.name}", keep * width)
            self._cuda.copy(target, source, keep * width, ON_DEVICE, self._stream)
        logits = self._buffers.address("logits", keep * blocks.vocab_size * FLOAT)
        context = blocks.contexts[-1][_profile(keep)]
        for value in graph.inputs:
            shape = (1, keep, blocks.hidden_size)
            self._input(context, value.name, shape, self._buffers.address(f"head.{value.name}"))
        context.set_tensor_address("logits", logits)
        self._enqueue(context, graph.file)
        rows = self._fetch("logits", (1, keep, blocks.vocab_size))[0]
        return rows if keep == 1 else rows.copy()

    def save(self, start: int, stop: int) -> np.ndarray:
        self._cuda.use()
        shape = (len(self._names), stop - start, self._spec.kv_heads, self._spec.head_dim)
        payload = np.empty(shape, self._spec.dtype)
        for array, name in zip(payload, self._names, strict=True):
            source = self._buffers.address(CACHE + name) + start * self._row
            self._cuda.copy(array.ctypes.data, source, array.nbytes, TO_HOST, self._stream)
        self._cuda.synchronize(self._stream)
        return payload

    def restore(self, payload: np.ndarray, start: int, stop: int) -> None:
        self._cuda.use()
        held = np.ascontiguousarray(payload)
        for array, name in zip(held, self._names, strict=True):
            target = self._buffers.address(CACHE + name) + start * self._row
            self._cuda.copy(target, array.ctypes.data, array.nbytes, TO_DEVICE, self._stream)
        self._cuda.synchronize(self._stream)

    def release(self) -> None:
        self._cuda.use()
        if not self._blocks.closed:
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

        TensorRT prepares itself for new shapes while it enqueues, which cannot be recorded, hence the first time; what
        was recorded is void once the context was given other shapes.
        """
        blocks, profile, key = self._blocks, _profile(step.count), (index, step.bound)
        file, context = blocks.graphs[index].file, blocks.contexts[index][profile]
        self._bind(context, index, step)
        if profile == 0:
            self._enqueue(context, file)
            return
        now = self._buffers.moved, blocks.reshaped(index, step.bound)
        then, recorded = self._graphs.get(key, (None, 0))
        if now != then:
            self._enqueue(context, file)
            if recorded:
                self._cuda.destroy_graph(recorded)
            self._graphs[key] = now, 0
            return
        if not recorded:
            recorded = self._recorded(context, file)
            self._graphs[key] = now, recorded
        self._cuda.launch(recorded, self._stream)

    def _recorded(self, context: Any, file: str) -> int:
        self._cuda.begin_capture(self._stream)
        try:
            self._enqueue(context, file)
        finally:
            graph = self._cuda.end_capture(self._stream)
        return graph

    def _bind(self, context: Any, index: int, step: Step) -> None:
        """Tell a context the shapes of a step and where everything is."""
        graph, spec = self._blocks.graphs[index], self._spec
        hidden = (1, step.count, self._blocks.hidden_size)
        for value in graph.inputs:
            name = value.name
            shape = self._shapes.get(name, hidden)
            if name.startswith(CACHE):
                shape = (1, step.bound, spec.kv_heads, spec.head_dim)
            self._input(context, name, shape, self._buffers.address(self._held(name)))
        for value in graph.outputs:
            name = value.name
            size = step.count * (self._row if name.startswith(PRESENT) else self._blocks.hidden_size * FLOAT)
            context.set_tensor_address(name, self._buffers.address(self._held(name), size))

    def _held(self, name: str) -> str:
        """The buffer behind an input or output; hidden states go back and forth between two."""
        turns = {HIDDEN: self._turn, NEXT_HIDDEN: 1 - self._turn}
        return f"{HIDDEN}{turns[name]}" if name in turns else name

    def _input(self, context: Any, name: str, shape: tuple[int, ...], address: int) -> None:
        if not context.set_input_shape(name, shape) or not context.set_tensor_address(name, address):
            raise InferencePioError(f"TensorRT refuses {name} of shape {list(shape)}: {self._blocks.error()}")

    def _append(self, name: str, step: Step) -> None:
        """Put new rows behind those in use."""
        cache = self._buffers.address(CACHE + name.removeprefix(PRESENT))
        target = cache + step.length * self._row
        self._cuda.copy(target, self._buffers.address(name), step.count * self._row, ON_DEVICE, self._stream)

    def _enqueue(self, context: Any, file: str) -> None:
        if not context.execute_async_v3(self._stream):
            raise InferencePioError(f"TensorRT failed in {file}: {self._blocks.error()}")

    def _send(self, name: str, array: np.ndarray) -> None:
        """Copy an array to the device; CUDA has read pageable memory when the call returns."""
        held = np.ascontiguousarray(array, np.float32)
        target = self._buffers.address(name, held.nbytes)
        self._cuda.copy(target, held.ctypes.data, held.nbytes, TO_DEVICE, self._stream)

    def _fetch(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """What a buffer holds, float32 of `shape` in host memory of its own, overwritten by the next call."""
        size = int(np.prod(shape)) * FLOAT
        address, view = self._host.get(name, (0, np.empty(0, np.uint8)))
        if view.nbytes < size:
            if address:
                self._cuda.free_host(address)
            address = self._cuda.allocate_host(size)
            view = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
            self._host[name] = address, view
        self._cuda.copy(address, self._buffers.address(name), size, TO_HOST, self._stream)
        self._cuda.synchronize(self._stream)
        return view[:size].view(np.float32).reshape(shape)

    def _check_memory(self, size: int, capacity: int) -> None:
        """Raise ResourceLimitError unless caches of `size` bytes fit; they replace the old ones one after the other."""
        needed = (len(self._names) - 1) * (size - self._size) + size
        free, _ = self._cuda.free_and_total()
        if needed > free:
            raise ResourceLimitError(
                f"a cache of {capacity} rows needs {needed // 10**6} MB more of GPU memory and {free // 10**6} MB are "
                "free: ask for fewer tokens, or open with a smaller max_context"
            )

    def _current(self) -> Step:
        assert self._step is not None
        return self._step


def _profile(count: int) -> int:
    """The profile for a number of new tokens: 0 for several, 1 for one."""
    return int(count == 1)
