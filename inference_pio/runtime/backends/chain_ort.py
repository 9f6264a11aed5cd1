"""The blocks of a chain on ONNX Runtime's CPU: the very files that TensorRT parses, without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inference_pio.artifact.manifest import CacheSpec, GraphFacts, Manifest
from inference_pio.errors import BadInputError, InferencePioError
from inference_pio.runtime.backends.blocks import (
    EXPERTS_INPUT,
    EXPERTS_OUTPUT,
    PAST,
    PRESENT,
    Step,
    blocks_and_head,
    fixed_rows,
)
from inference_pio.runtime.backends.cache_buffers import ITEMS
from inference_pio.runtime.backends.ort_session import (
    check_version,
    first_line,
    import_onnxruntime,
    open_session,
    ort_errors,
    session_entries,
)
from inference_pio.runtime.backends.tower import OrtTower

SIGNED_PRODUCTS = {"session.qdqisint8allowed": "1"}
"""Makes ONNX Runtime run all products between QuantizeLinear and DequantizeLinear on integers, as a GPU does. Those
that share an activation are computed in float32 otherwise, with weights that are dequantized in every step. CPUs whose
products saturate need another option, which excludes it."""


class OrtBlocks:
    """Sessions of all blocks and of the head."""

    cache_rows = 1 << 62

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        """Raises BadInputError for files that cannot be loaded or that are not what the manifest says."""
        self.ort = import_onnxruntime()
        check_version(self.ort.__version__, manifest.requires.packages.get("onnxruntime", "0"))
        self._folder, self._threads = folder, threads
        self.spec: CacheSpec = manifest.cache
        self.graphs = blocks_and_head(manifest)
        self.in_place = fixed_rows(self.graphs) is not None
        entries = {} if session_entries(self.ort) else SIGNED_PRODUCTS
        self.sessions = [open_part(folder, graph, threads, entries) for graph in self.graphs]

    def state(self) -> OrtBlockState:
        return OrtBlockState(self)

    def open_tower(self, graph: GraphFacts) -> OrtTower:
        return OrtTower(self._folder, graph, self._threads)

    def close(self) -> None:
        self.sessions = []


class OrtBlockState:
    """Caches by the part of their name behind `past_key_values.`: [1, capacity, G, D], in place [1, G, capacity, D]."""

    def __init__(self, blocks: OrtBlocks) -> None:
        self._blocks = blocks
        spec = blocks.spec
        names = [f"{layer}.{kind}" for layer in range(spec.layers) for kind in spec.kinds]
        self._caches: dict[str, np.ndarray] = {name: self._empty(0) for name in names}
        self._inputs: dict[str, np.ndarray] = {}
        self._step: Step | None = None

    def reserve(self, capacity: int, used: int) -> None:
        for name, old in self._caches.items():
            new = self._empty(capacity)
            self._rows(new)[:used] = self._rows(old)[:used]
            self._caches[name] = new

    def start(self, step: Step) -> None:
        self._step, self._inputs = step, dict(step.inputs)

    def run_block(self, index: int) -> np.ndarray | None:
        step = self._step
        assert step is not None
        found = self._run(index, self._inputs)
        for name, rows in found.items():
            cache = name.removeprefix(PRESENT)
            if cache != name and self._blocks.in_place:
                self._caches[cache] = rows
            elif cache != name:
                self._caches[cache][:, step.length : step.length + step.count] = rows
        self._inputs.pop(EXPERTS_OUTPUT, None)
        self._inputs["hidden_states"] = found["next_hidden_states"]
        return found.get(EXPERTS_INPUT)

    def put_experts(self, output: np.ndarray) -> None:
        self._inputs[EXPERTS_OUTPUT] = output

    def run_head(self, keep: int) -> np.ndarray:
        read = {value.name for value in self._blocks.graphs[-1].inputs}
        kept = {name: self._inputs[name][:, -keep:] for name in read}
        logits: np.ndarray = self._run(len(self._blocks.graphs) - 1, kept)["logits"][0]
        return logits

    def save(self, start: int, stop: int) -> np.ndarray:
        return np.stack([self._rows(cache)[start:stop] for cache in self._caches.values()])

    def restore(self, payload: np.ndarray, start: int, stop: int) -> None:
        for cache, rows in zip(self._caches.values(), payload, strict=True):
            self._rows(cache)[start:stop] = rows

    def release(self) -> None:
        self._caches = {}

    def _run(self, index: int, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        graph, session = self._blocks.graphs[index], self._blocks.sessions[index]
        outputs = [value.name for value in graph.outputs]
        feeds = {value.name: self._input(value.name, inputs) for value in graph.inputs}
        try:
            return dict(zip(outputs, session.run(outputs, feeds), strict=True))
        except ort_errors(self._blocks.ort) as error:
            raise InferencePioError(f"ONNX Runtime failed in {graph.file}: {first_line(error)}") from None

    def _input(self, name: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        if not name.startswith(PAST):
            return inputs[name]
        assert self._step is not None
        cache = self._caches[name.removeprefix(PAST)]
        return cache if self._blocks.in_place else cache[:, : self._step.bound]

    def _empty(self, capacity: int) -> np.ndarray:
        """A cache of zeros."""
        heads, size = self._blocks.spec.kv_heads, self._blocks.spec.head_dim
        rows = (heads, capacity) if self._blocks.in_place else (capacity, heads)
        return np.zeros((1, *rows, size), ITEMS[self._blocks.spec.dtype])

    def _rows(self, cache: np.ndarray) -> np.ndarray:
        """A view of a cache with its rows outermost: [capacity, G, D]."""
        return cache[0].transpose(1, 0, 2) if self._blocks.in_place else cache[0]


def open_part(folder: Path, graph: GraphFacts, threads: int, entries: Mapping[str, str] | None = None) -> Any:
    """The session of a graph; raises BadInputError unless its inputs and outputs are those of the manifest."""
    session = open_session(folder / graph.file, threads, entries=entries)
    for found, listed in ((session.get_inputs(), graph.inputs), (session.get_outputs(), graph.outputs)):
        if {value.name: list(value.shape) for value in found} != {value.name: value.shape for value in listed}:
            raise BadInputError(
                f"{folder / graph.file} has other inputs or outputs than its manifest says: copy or export the "
                "artifact again"
            )
    return session
