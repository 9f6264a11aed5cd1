"""One sequence on a GPU: its caches, the values on their way through the engines, and recorded graphs for decoding."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_pio.errors import BadInputError, InferencePioError
from inference_pio.runtime.backends.blocks import EXPERTS_INPUT, EXPERTS_OUTPUT, PAST, PRESENT, Step
from inference_pio.runtime.backends.cuda_library import ON_DEVICE, TO_DEVICE, TO_HOST
from inference_pio.runtime.backends.device_caches import DeviceBuffers, DeviceCaches

if TYPE_CHECKING:
    from inference_pio.runtime.backends.tensorrt import TensorRTBlocks

FLOAT = 4
"""Bytes of a hidden state or a logit."""
HIDDEN, NEXT_HIDDEN = "hidden_states", "next_hidden_states"


class TensorRTBlockState:
    """The buffers of one sequence, and what was recorded with them."""

    def __init__(self, blocks: TensorRTBlocks) -> None:
        self._blocks, self._cuda, self._stream = blocks, blocks.cuda, blocks.stream
        self._buffers = DeviceBuffers(self._cuda)
        self._caches = DeviceCaches(self._cuda, self._buffers, blocks.spec, blocks.in_place, self._stream)
        self._shapes: dict[str, tuple[int, ...]] = {}
        """Of the inputs that are the same for all blocks."""
        self._step: Step | None = None
        self._turn = 0
        """Which of the two buffers holds the hidden states."""
        self._graphs: dict[tuple[int, int], tuple[tuple[int, int], int]] = {}
        """By block and bound rows: how often addresses and shapes had changed, and what was recorded then (0: not)."""
        self._host: dict[str, tuple[int, np.ndarray]] = {}

    def reserve(self, capacity: int, used: int) -> None:
        self._cuda.use()
        self._caches.reserve(capacity, used)

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
            if value.name.startswith(PRESENT) and not self._blocks.in_place:
                rows, cache = self._buffers.address(value.name), PAST + value.name.removeprefix(PRESENT)
                self._caches.append(cache, rows, step.length, step.count)
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
        return self._caches.save(start, stop)

    def restore(self, payload: np.ndarray, start: int, stop: int) -> None:
        self._cuda.use()
        self._caches.restore(payload, start, stop)

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
        graph = self._blocks.graphs[index]
        hidden = (1, step.count, self._blocks.hidden_size)
        for value in graph.inputs:
            name = value.name
            shape = self._caches.shape(step.bound) if name.startswith(PAST) else self._shapes.get(name, hidden)
            self._input(context, name, shape, self._buffers.address(self._held(name)))
        for value in graph.outputs:
            name = value.name
            size = step.count * (self._caches.row_bytes if name.startswith(PRESENT) else hidden[-1] * FLOAT)
            if name.startswith(PRESENT) and self._blocks.in_place:
                name, size = PAST + name.removeprefix(PRESENT), 0
            context.set_tensor_address(value.name, self._buffers.address(self._held(name), size))

    def _held(self, name: str) -> str:
        """The buffer behind an input or output; hidden states go back and forth between two."""
        turns = {HIDDEN: self._turn, NEXT_HIDDEN: 1 - self._turn}
        return f"{HIDDEN}{turns[name]}" if name in turns else name

    def _input(self, context: Any, name: str, shape: tuple[int, ...], address: int) -> None:
        if not context.set_input_shape(name, shape) or not context.set_tensor_address(name, address):
            raise InferencePioError(f"TensorRT refuses {name} of shape {list(shape)}: {self._blocks.error()}")

    def _enqueue(self, context: Any, file: str) -> None:
        if not context.execute_async_v3(self._stream):
            raise InferencePioError(f"TensorRT failed in {file}: {self._blocks.error()}")

    def _send(self, name: str, array: np.ndarray) -> None:
        """Copy an array to the device; CUDA has read pageable memory when the call returns."""
        held = np.ascontiguousarray(array)
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

    def _current(self) -> Step:
        assert self._step is not None
        return self._step


def _profile(count: int) -> int:
    """The profile for a number of new tokens: 0 for several, 1 for one."""
    return int(count == 1)
