"""The blocks of a chain as TensorRT engines on a GPU, and the vision tower beside them.

What is fetched to the host are logits, features of images, and, in hybrids, what the experts read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inference_pio.artifact.manifest import GraphFacts, Manifest
from inference_pio.runtime.backends.blocks import BIAS, PAST, blocks_and_head, fixed_rows
from inference_pio.runtime.backends.tensorrt_engines import TensorRTEngines
from inference_pio.runtime.backends.tensorrt_state import TensorRTBlockState
from inference_pio.runtime.backends.tensorrt_tower import TensorRTTower

PREFILL, DECODE = 0, 1
"""Profiles of every block and of the head: several new tokens, and one."""


class TensorRTBlocks:
    """Engines of all blocks and of the head, with an execution context each per profile."""

    def __init__(self, manifest: Manifest, cache_dir: Path, device: int = 0) -> None:
        """Raises BadInputError without TensorRT, GPU or engines, ResourceLimitError when they do not fit the GPU."""
        self.shared = TensorRTEngines(manifest, cache_dir, device)
        self.spec, self._vision = manifest.cache, manifest.vision
        self.hidden_size, self.vocab_size = manifest.model.hidden_size, manifest.model.vocab_size
        self.graphs = blocks_and_head(manifest)
        self.in_place = fixed_rows(self.graphs) is not None
        self.cache_rows = 1 << 62
        """Rows of the cache that the engines can be given at most."""
        self.contexts: list[list[Any]] = []
        try:
            self._load()
        except BaseException:
            self.close()
            raise
        self._decoding = [(0, 0)] * len(self.contexts)
        """Of each context for decoding: the cache rows it was last given, and how often these have changed."""

    def state(self) -> TensorRTBlockState:
        return TensorRTBlockState(self)

    def open_tower(self, graph: GraphFacts) -> TensorRTTower:
        assert self._vision is not None
        return TensorRTTower(self.shared, graph, self._vision.merge_size**2)

    def close(self) -> None:
        self.contexts = []
        self.shared.close()

    def _load(self) -> None:
        shared, graphs = self.shared, self.graphs
        engines = [shared.load(graph, profiles=DECODE + 1) for graph in graphs]
        self.cache_rows = min(_most_rows(engine, graph) for engine, graph in zip(engines, graphs, strict=True))
        shared.reserve(engines)
        self.contexts = [[shared.context(engine, profile) for profile in (PREFILL, DECODE)] for engine in engines]
        shared.cuda.synchronize(shared.stream)

    def reshaped(self, index: int, bound: int) -> int:
        """Note that a block decodes over `bound` cache rows.

        Returns how often its context has been given other shapes, or other memory for activations.
        """
        rows, changes = self._decoding[index]
        if rows != bound:
            self._decoding[index] = bound, changes + 1
        return self._decoding[index][1] + self.shared.moved


def _most_rows(engine: Any, graph: GraphFacts) -> int:
    """The most cache rows that an engine takes in both profiles; a head, which has no cache, takes any.

    Rows that are bound are in the shape of the cache; where it is bound whole, those that are read in that of the bias.
    """
    prefix, axis = (PAST, 1) if fixed_rows([graph]) is None else (BIAS, 3)
    names = [value.name for value in graph.inputs if value.name.startswith(prefix)]
    rows = [engine.get_tensor_profile_shape(name, profile)[2][axis] for name in names for profile in (PREFILL, DECODE)]
    return min(rows, default=1 << 62)
