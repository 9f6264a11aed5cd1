"""What the TensorRT engines of an artifact share: the GPU, its stream, and one piece of memory for activations.

They run one after the other, so one piece is enough. It grows when an engine with larger activations is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inference_pio.artifact.manifest import GraphFacts, Manifest
from inference_pio.errors import BadInputError, InferencePioError, ResourceLimitError
from inference_pio.runtime.backends import tensorrt_library as library
from inference_pio.runtime.backends.cuda_library import Cuda, open_cuda
from inference_pio.runtime.backends.engine_store import EngineStore, graph_hash

ROLES = ("block", "head", "vision")
"""Graphs that are engines; experts run on ONNX Runtime."""
RESERVE = 64 << 20
"""Device memory that is left for the driver's own needs."""


class TensorRTEngines:
    """Loads engines from the user's cache and makes their execution contexts. Not thread-safe."""

    def __init__(self, manifest: Manifest, cache_dir: Path, device: int = 0) -> None:
        """Raises BadInputError without TensorRT, GPU or engines, ResourceLimitError when they do not fit the GPU."""
        self._trt: Any = library.import_tensorrt(manifest.dialect)
        self.cuda: Cuda = open_cuda(library.cuda_major(self._trt, manifest.dialect), device)
        self._manifest = manifest
        self._store = EngineStore(cache_dir, manifest, library.engine_facts(self._trt, self.cuda))
        sizes = [self._store.known(graph).size for graph in manifest.graphs if graph.role in ROLES]
        self._check_memory(sum(sizes) + RESERVE, "the engines need")
        self.stream = self.cuda.stream()
        self._log = library.logger(self._trt)
        self._runtime = self._trt.Runtime(self._log)
        self._contexts: list[tuple[Any, Any]] = []
        """Each with its engine, which must live as long."""
        self._scratch, self._scratch_bytes = 0, 0
        self.moved = 0
        """How often the memory for activations was another one: graphs that were recorded before are void."""
        self.closed = False
        self._store.touch()

    def load(self, graph: GraphFacts, profiles: int) -> Any:
        """The engine of a graph, with so many profiles.

        Raises BadInputError when it is missing, was changed, is not of this graph or is refused by TensorRT;
        ResourceLimitError when the GPU has no room.
        """
        file, record = self._store.checked(graph)
        if record.source != graph_hash(self._manifest, graph):
            raise BadInputError(f"{file} was built from another graph: run inference-pio build --force")
        self._check_memory(record.size, f"the engine of {graph.file} needs")
        engine = library.deserialize(self._runtime, self._log, file)
        _check_engine(self._trt, engine, graph, file, profiles)
        return engine

    def reserve(self, engines: list[Any]) -> None:
        """Have room for the activations of engines; raises ResourceLimitError when the GPU has none."""
        size = max(library.scratch_bytes(engine) for engine in engines)
        if size <= self._scratch_bytes:
            return
        scratch = self.cuda.allocate(size, "the memory for activations")
        self.cuda.synchronize(self.stream)
        for context, _ in self._contexts:
            library.give_scratch(context, scratch, size)
        if self._scratch:
            self.cuda.free(self._scratch)
        self._scratch, self._scratch_bytes = scratch, size
        self.moved += 1

    def context(self, engine: Any, profile: int) -> Any:
        """An execution context of an engine that was reserved for."""
        made = library.context_over(self._trt, engine, profile, self._scratch, self._scratch_bytes, self.stream)
        self._contexts.append((made, engine))
        return made

    def bind(self, context: Any, name: str, shape: tuple[int, ...], address: int) -> None:
        """Tell a context the shape of an input and where it is."""
        if not context.set_input_shape(name, shape) or not context.set_tensor_address(name, address):
            raise InferencePioError(f"TensorRT refuses {name} of shape {list(shape)}: {self._error()}")

    def enqueue(self, context: Any, file: str) -> None:
        """Put a run of a context on the stream; `file` names it in errors."""
        if not context.execute_async_v3(self.stream):
            raise InferencePioError(f"TensorRT failed in {file}: {self._error()}")

    def drop(self, context: Any) -> None:
        """Forget a context, and its engine."""
        self._contexts = [held for held in self._contexts if held[0] is not context]

    def check_open(self) -> None:
        """Raise BadInputError when it was closed."""
        if self.closed:
            raise BadInputError("the engine is closed: open the artifact again")

    def close(self) -> None:
        """Free memory and stream; closing twice is fine."""
        if self.closed:
            return
        self.cuda.use()
        self.cuda.synchronize(self.stream)
        self._contexts, self.closed = [], True
        if self._scratch:
            self.cuda.free(self._scratch)
        self.cuda.destroy_stream(self.stream)

    def _error(self) -> str:
        """The last thing that TensorRT complained about."""
        return self._log.last_error or "no reason given"

    def _check_memory(self, needed: int, what: str) -> None:
        free, _ = self.cuda.free_and_total()
        if needed > free:
            raise ResourceLimitError(
                f"{what} {needed // 10**6} MB of GPU memory before any cache, and {free // 10**6} MB of "
                f"{self.cuda.name} are free: close other programs that use the GPU, or export with a smaller recipe"
            )


def _check_engine(trt: Any, engine: Any, graph: GraphFacts, file: Path, profiles: int) -> None:
    """Raise BadInputError unless inputs, outputs and types are those of the manifest and all profiles are there."""
    names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    listed = {value.name for value in (*graph.inputs, *graph.outputs)}
    types = {"float32": "FLOAT", "float16": "HALF", "int64": "INT64", "int32": "INT32"}
    typed = names == listed and all(
        engine.get_tensor_dtype(value.name) == getattr(trt.DataType, types.get(value.dtype, ""), None)
        for value in (*graph.inputs, *graph.outputs)
    )
    if not typed or engine.num_optimization_profiles != profiles:
        raise BadInputError(f"{file} has other inputs, outputs or profiles than {graph.file}: build it again")
