"""The blocks of a chain as TensorRT engines on a GPU.

All engines share one piece of memory for their activations, since they run one after the other. What is fetched to the
host are logits, and, in hybrids, what the experts read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inference_pio.artifact.manifest import GraphFacts, Manifest
from inference_pio.errors import BadInputError, ResourceLimitError
from inference_pio.runtime.backends import tensorrt_library as library
from inference_pio.runtime.backends.blocks import BIAS, PAST, fixed_rows
from inference_pio.runtime.backends.cuda_library import Cuda, open_cuda
from inference_pio.runtime.backends.engine_store import EngineStore, graph_hash
from inference_pio.runtime.backends.tensorrt_state import TensorRTBlockState

PREFILL, DECODE = 0, 1
"""Profiles of every engine: several new tokens, and one."""
RESERVE = 64 << 20
"""Device memory that is left for the driver's own needs."""


class TensorRTBlocks:
    """Engines of all blocks and of the head, with an execution context each per profile."""

    def __init__(self, manifest: Manifest, cache_dir: Path, device: int = 0) -> None:
        """Raises BadInputError without TensorRT, GPU or engines, ResourceLimitError when they do not fit the GPU."""
        self.trt: Any = library.import_tensorrt(manifest.dialect)
        self.cuda: Cuda = open_cuda(library.cuda_major(self.trt, manifest.dialect), device)
        self.spec = manifest.cache
        self.hidden_size, self.vocab_size = manifest.model.hidden_size, manifest.model.vocab_size
        self.graphs = [graph for graph in manifest.graphs if graph.role in ("block", "head")]
        self.in_place = fixed_rows(self.graphs) is not None
        store = EngineStore(cache_dir, manifest, library.engine_facts(self.trt, self.cuda))
        files = [self._checked(store, manifest, graph) for graph in self.graphs]
        self._check_memory(files)
        self.stream = self.cuda.stream()
        self._log = library.logger(self.trt)
        self._runtime = self.trt.Runtime(self._log)
        self.engines = [library.deserialize(self._runtime, self._log, file) for file in files]
        for engine, graph, file in zip(self.engines, self.graphs, files, strict=True):
            _check_engine(self.trt, engine, graph, file)
        self.cache_rows = min(
            _most_rows(engine, graph) for engine, graph in zip(self.engines, self.graphs, strict=True)
        )
        """Rows of the cache that the engines can be given at most."""
        size = max(library.scratch_bytes(engine) for engine in self.engines)
        self.scratch = self.cuda.allocate(size, "the memory for activations")
        self.contexts = [
            [self._context(engine, profile, size) for profile in (PREFILL, DECODE)] for engine in self.engines
        ]
        self.cuda.synchronize(self.stream)
        self.closed = False
        self._decoding = [(0, 0)] * len(self.engines)
        """Of each context for decoding: the cache rows it was last given, and how often these have changed."""
        store.touch()

    def state(self) -> TensorRTBlockState:
        return TensorRTBlockState(self)

    def close(self) -> None:
        if self.closed:
            return
        self.cuda.use()
        self.cuda.synchronize(self.stream)
        self.contexts, self.engines, self.closed = [], [], True
        self.cuda.free(self.scratch)
        self.cuda.destroy_stream(self.stream)

    def reshaped(self, index: int, bound: int) -> int:
        """Note that a block decodes over `bound` cache rows; how often its context has been given other shapes."""
        rows, changes = self._decoding[index]
        if rows != bound:
            self._decoding[index] = bound, changes + 1
        return self._decoding[index][1]

    def error(self) -> str:
        """The last thing that TensorRT complained about."""
        return self._log.last_error or "no reason given"

    def _context(self, engine: Any, profile: int, size: int) -> Any:
        return library.context_over(self.trt, engine, profile, self.scratch, size, self.stream)

    def _checked(self, store: EngineStore, manifest: Manifest, graph: GraphFacts) -> Path:
        file, record = store.checked(graph)
        if record.source != graph_hash(manifest, graph):
            raise BadInputError(f"{file} was built from another graph: run inference-pio build --force")
        return file

    def _check_memory(self, files: list[Path]) -> None:
        needed, (free, _) = sum(file.stat().st_size for file in files) + RESERVE, self.cuda.free_and_total()
        if needed > free:
            raise ResourceLimitError(
                f"the engines need {needed // 10**6} MB of GPU memory before any cache, and {free // 10**6} MB of "
                f"{self.cuda.name} are free: close other programs that use the GPU, or export with a smaller recipe"
            )


def _check_engine(trt: Any, engine: Any, graph: GraphFacts, file: Path) -> None:
    """Raise BadInputError unless inputs, outputs and types are those of the manifest and both profiles are there."""
    names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    listed = {value.name for value in (*graph.inputs, *graph.outputs)}
    types = {"float32": "FLOAT", "float16": "HALF", "int64": "INT64"}
    typed = names == listed and all(
        engine.get_tensor_dtype(value.name) == getattr(trt.DataType, types.get(value.dtype, ""), None)
        for value in (*graph.inputs, *graph.outputs)
    )
    if not typed or engine.num_optimization_profiles != DECODE + 1:
        raise BadInputError(f"{file} has other inputs, outputs or profiles than {graph.file}: build it again")


def _most_rows(engine: Any, graph: GraphFacts) -> int:
    """The most cache rows that an engine takes in both profiles; a head, which has no cache, takes any.

    Rows that are bound are in the shape of the cache; where it is bound whole, those that are read in that of the bias.
    """
    prefix, axis = (PAST, 1) if fixed_rows([graph]) is None else (BIAS, 3)
    names = [value.name for value in graph.inputs if value.name.startswith(prefix)]
    rows = [engine.get_tensor_profile_shape(name, profile)[2][axis] for name in names for profile in (PREFILL, DECODE)]
    return min(rows, default=1 << 62)
