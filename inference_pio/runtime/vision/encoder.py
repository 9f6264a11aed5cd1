"""The vision tower at work: loaded when the first image comes, its features kept by the content of the images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

import numpy as np

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.manifest import GraphFacts, VisionFacts
from inference_pio.errors import BadInputError
from inference_pio.runtime.backends.tower import PIXELS, Tower
from inference_pio.runtime.memory import MemoryBudget
from inference_pio.runtime.vision.features import Features
from inference_pio.runtime.vision.grid import patch_positions, position_taps
from inference_pio.runtime.vision.preprocess import Patches

INPUTS = (PIXELS, "position_indices", "position_weights", "patch_positions")


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
    """Runs an artifact's vision graph.

    Threads may share it, on a GPU beside a decoder only as the engine does: while no step of the model runs.
    """

    def __init__(
        self,
        artifact: Artifact,
        facts: VisionFacts,
        open_tower: Callable[[GraphFacts], Tower],
        budget: MemoryBudget,
        cache: int,
    ) -> None:
        """`open_tower` loads the graph; `cache` is in bytes.

        Raises BadInputError when the manifest has no graph of a vision tower.
        """
        graph = artifact.manifest.graph("vision")
        if graph is None:
            raise BadInputError(f"the manifest in {artifact.path} lists no vision graph: export the artifact again")
        if {value.name for value in graph.inputs} != set(INPUTS):
            raise BadInputError(
                f"{artifact.file(graph.file)} has other inputs than a vision tower: export the artifact again"
            )
        self.cache = FeatureCache(cache)
        self.runs = 0
        self._graph = graph
        data = artifact.manifest.files.get(f"{graph.file}.data")
        self._weights = 0 if data is None else data.size
        self._per_patch = artifact.manifest.memory.image_bytes_per_patch
        self._facts, self._open_tower, self._budget = facts, open_tower, budget
        self._tower: Tower | None = None
        self._lock = Lock()

    @property
    def loaded(self) -> bool:
        """Whether the graph was needed so far."""
        return self._tower is not None

    def features(self, patches: Patches) -> Features:
        """What stands in the places of an image's tokens; computed at most once while the cache holds it.

        Raises ResourceLimitError when the memory budget or the device has no room for the graph or its activations, and
        for an image that is larger than it takes.
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
            if self._tower is not None:
                self._tower.close()
                self._budget.give(self._weights)
            self._tower = None

    def _opened(self) -> Tower:
        self._budget.take(self._weights, "loading the vision tower")
        try:
            return self._open_tower(self._graph)
        except BaseException:
            self._budget.give(self._weights)
            raise

    def _computed(self, patches: Patches) -> Features:
        if self._tower is None:
            self._tower = self._opened()
        count = patches.grid.frames * patches.grid.frame_patches
        self._budget.take(count * self._per_patch, f"an image of {count} patches (fewer with max_image_tokens)")
        try:
            layers = self._tower.run(self._inputs(patches))
        finally:
            self._budget.give(count * self._per_patch)
        self.runs += 1
        return Features(np.stack([layer.reshape(-1, layer.shape[-1]) for layer in layers]))

    def _inputs(self, patches: Patches) -> dict[str, np.ndarray]:
        """What the graph takes, in its own types."""
        grid, merge = patches.grid, self._facts.merge_size
        indices, weights = position_taps(grid.height, grid.width, merge, self._facts.position_side)
        places = patch_positions(grid.height, grid.width, merge)
        values = dict(zip(INPUTS, (patches.values, indices, weights, places), strict=True))
        return {value.name: values[value.name].astype(value.dtype, copy=False) for value in self._graph.inputs}
