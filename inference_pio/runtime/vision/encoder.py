"""The vision tower at work: loaded when the first image comes, its features kept by the content of the images."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.manifest import VisionFacts
from inference_pio.errors import BadInputError, InferencePioError
from inference_pio.runtime.backends.device_memory import DeviceMemory
from inference_pio.runtime.backends.ort_session import (
    arena_of,
    first_line,
    import_onnxruntime,
    open_session,
    ort_errors,
)
from inference_pio.runtime.memory import MemoryBudget
from inference_pio.runtime.vision.features import Features
from inference_pio.runtime.vision.grid import patch_positions, position_taps
from inference_pio.runtime.vision.preprocess import Patches

INPUTS = {"pixel_values", "position_indices", "position_weights", "patch_positions"}


class FeatureCache:
    """Features by the digest of their image, the least recently used leaving first. Not thread-safe."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.held_bytes = self.hits = 0
        self._held: OrderedDict[bytes, Features] = OrderedDict()

    def get(self, digest: bytes) -> Features | None:
        """The features of an image, if they are held."""
        found = self._held.get(digest)
        if found is not None:
            self.hits += 1
            self._held.move_to_end(digest)
        return found

    def put(self, digest: bytes, features: Features) -> None:
        """Hold features, unless they are larger than the budget alone."""
        size = features.layers.nbytes
        if digest in self._held or size > self.budget_bytes:
            return
        while self.held_bytes + size > self.budget_bytes:
            _, oldest = self._held.popitem(last=False)
            self.held_bytes -= oldest.layers.nbytes
        self._held[digest] = features
        self.held_bytes += size


class VisionEncoder:
    """Runs an artifact's vision graph. Threads may share it."""

    def __init__(
        self,
        artifact: Artifact,
        facts: VisionFacts,
        threads: int,
        budget: MemoryBudget,
        cache: int,
        memory: DeviceMemory | None = None,
    ) -> None:
        """`cache` is in bytes; with the `memory` of a GPU the graph runs there."""
        graph = artifact.manifest.graph("vision")
        if graph is None:
            raise BadInputError(f"the manifest in {artifact.path} lists no vision graph: export the artifact again")
        self.cache = FeatureCache(cache)
        self.runs = 0
        self._file: Path = artifact.file(graph.file)
        data = artifact.manifest.files.get(f"{graph.file}.data")
        self._weights = 0 if data is None else data.size
        self._per_patch = artifact.manifest.memory.image_bytes_per_patch
        self._outputs = [output.name for output in graph.outputs]
        self._facts, self._threads, self._budget, self._memory = facts, threads, budget, memory
        self._session: Any = None
        self._lock = Lock()

    @property
    def loaded(self) -> bool:
        """Whether the graph was needed so far."""
        return self._session is not None

    def features(self, patches: Patches) -> Features:
        """What stands in the places of an image's tokens; computed at most once while the cache holds it.

        Raises ResourceLimitError when the memory budget has no room for the graph, or for its activations.
        """
        with self._lock:
            found = self.cache.get(patches.digest)
            if found is None:
                found = self._computed(patches)
                self.cache.put(patches.digest, found)
            return found

    def close(self) -> None:
        """Release the weights."""
        with self._lock:
            if self._session is not None:
                self._budget.give(self._weights)
            self._session = None

    def _opened(self) -> Any:
        self._budget.take(self._weights, "loading the vision tower")
        try:
            session = open_session(self._file, self._threads, self._memory)
            if {value.name for value in session.get_inputs()} != INPUTS:
                raise BadInputError(f"{self._file} has other inputs than a vision tower: export the artifact again")
        except BaseException:
            self._budget.give(self._weights)
            raise
        return session

    def _computed(self, patches: Patches) -> Features:
        if self._session is None:
            self._session = self._opened()
        count = patches.grid.frames * patches.grid.frame_patches
        self._budget.take(count * self._per_patch, f"an image of {count} patches (fewer with max_image_tokens)")
        try:
            return self._run(patches)
        finally:
            self._budget.give(count * self._per_patch)

    def _run(self, patches: Patches) -> Features:
        grid, merge = patches.grid, self._facts.merge_size
        indices, weights = position_taps(grid.height, grid.width, merge, self._facts.position_side)
        feeds = {
            "pixel_values": patches.values,
            "position_indices": indices,
            "position_weights": weights,
            "patch_positions": patch_positions(grid.height, grid.width, merge),
        }
        for value in self._session.get_inputs():
            if value.type == "tensor(int32)":
                feeds[value.name] = feeds[value.name].astype(np.int32)
        ort = import_onnxruntime()
        shrink_arena = ort.RunOptions()  # a large image's activations must not stay
        shrink_arena.add_run_config_entry("memory.enable_memory_arena_shrinkage", arena_of(self._memory))
        try:
            layers = self._session.run(self._outputs, feeds, shrink_arena)
        except ort_errors(ort) as error:
            raise InferencePioError(f"ONNX Runtime failed on an image: {first_line(error)}") from None
        self.runs += 1
        return Features(np.stack([layer.reshape(-1, layer.shape[-1]) for layer in layers]))
