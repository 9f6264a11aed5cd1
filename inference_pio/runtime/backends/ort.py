"""ONNX Runtime: a decoder's session, checked against the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from inference_pio.artifact.manifest import CacheSpec, GraphFacts, Manifest
from inference_pio.errors import BadInputError
from inference_pio.runtime.backends.cache_buffers import GROWTH
from inference_pio.runtime.backends.device_memory import DeviceMemory
from inference_pio.runtime.backends.ort_device import CANDIDATE_OUTPUTS, CANDIDATES, SEEN, TEMPERATURES, DeviceSequence
from inference_pio.runtime.backends.ort_sequence import OrtSequence
from inference_pio.runtime.backends.ort_session import (
    KEEP_INPUT,
    check_version,
    import_onnxruntime,
    open_session,
)
from inference_pio.runtime.backends.tower import OrtTower
from inference_pio.runtime.memory import MemoryBudget
from inference_pio.runtime.vision.features import ChunkImages

IMAGE_MASK, IMAGE_EMBEDS, DEEPSTACK_EMBEDS = "image_mask", "image_embeds", "deepstack_embeds."
CACHE_TYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "bfloat16": "tensor(bfloat16)",
    "int8": "tensor(int8)",
}
"""Of a manifest's cache dtype, what ONNX Runtime calls it."""


class OrtBackend:
    """A decoder graph in an ONNX Runtime session.

    `mapped` is its prepacked form, where that is used. With a `memory`, which may be the host's, sequences keep their
    cache and logits in it, and the graph must have candidate outputs.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        threads: int,
        budget: MemoryBudget,
        mapped: Path | None = None,
        memory: DeviceMemory | None = None,
    ) -> None:
        ort = import_onnxruntime()
        check_version(ort.__version__, manifest.requires.packages.get("onnxruntime", "0"))
        self.ort = ort
        self._folder, self._threads = folder, threads
        self.spec: CacheSpec = manifest.cache
        self.positions = manifest.positions
        self.vocab_size = manifest.model.vocab_size
        self.hidden_size = manifest.model.hidden_size
        self.budget = budget
        graph = manifest.graph("decoder")
        if graph is None:
            raise BadInputError(f"the manifest in {folder} lists no decoder: export the artifact again")
        self.memory = memory
        self.session = open_session(mapped or folder / graph.file, threads, memory)
        self.paged = memory is not None and _is_paged(self.session)
        """Whether the cache's tokens come in blocks, [blocks, 256, heads, head_dim]; one head has the same memory."""
        _check_graph(self.session, manifest, folder, candidates=memory is not None, paged=self.paged)
        shapes = {value.name: value.shape for value in self.session.get_outputs()}
        self.candidates: int = shapes[CANDIDATES][2] if memory is not None else 0
        """How many of the best logits the graph gives."""
        names = [value.name for value in self.session.get_overridable_initializers()]
        self.image_inputs = [name for name in names if name == IMAGE_EMBEDS or name.startswith(DEEPSTACK_EMBEDS)]
        """Of the decoder, in the order of `ChunkImages.layers`."""
        self.image_inputs.sort(key=lambda name: (name != IMAGE_EMBEDS, len(name), name))

        self.shrink_arena = ort.RunOptions()
        """For the first step after a prompt: gives the memory of the prompt's activations back."""
        self.shrink_arena.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def sequence(self) -> OrtSequence | DeviceSequence:
        return OrtSequence(self) if self.memory is None else DeviceSequence(self, self.memory)

    def image_values(self, images: ChunkImages | None) -> list[tuple[str, np.ndarray]]:
        """The decoder's inputs for a chunk's images; without any, rows of zeros that change nothing."""
        names = self.image_inputs
        if images is None:
            layers = np.zeros((len(names), 1, 1, self.hidden_size), np.float32)
            images = ChunkImages(np.zeros((1, 1), np.bool_), layers)
        pairs = zip(names, images.layers, strict=False)  # a decoder cut short takes fewer
        return [(IMAGE_MASK, images.mask), *pairs]

    def open_tower(self, graph: GraphFacts) -> OrtTower:
        return OrtTower(self._folder, graph, self._threads, self.memory)

    def close(self) -> None:
        self.session = None


def _is_paged(session: Any) -> bool:
    caches = [value.shape for value in session.get_inputs() if value.name.startswith("past_key_values.")]
    return bool(caches) and len(caches[0]) == 4 and caches[0][1] == GROWTH and caches[0][2] == 1


def _check_graph(session: Any, manifest: Manifest, folder: Path, candidates: bool, paged: bool) -> None:
    """Raise BadInputError unless inputs and outputs are those that the manifest's cache and vocabulary imply.

    With `candidates` the outputs of `ort_device` must be there as well; a `paged` cache has blocks of tokens.
    """
    cache = manifest.cache
    values = (*session.get_inputs(), *session.get_outputs())
    found = {value.name: value.shape for value in values}
    optional = {value.name for value in session.get_overridable_initializers()}
    expected: dict[str, dict[int, int]] = {"input_ids": {}, "attention_mask": {}}
    expected["logits"] = {2: manifest.model.vocab_size}
    if manifest.positions is not None:
        expected |= {name: {1: len(manifest.positions.inverse_frequencies)} for name in ("cos_cache", "sin_cache")}
    for layer in range(min(cache.layers, len(found))):
        for name in (f"past_key_values.{layer}", f"present.{layer}"):
            sizes = {1: GROWTH, 2: cache.kv_heads} if paged else {1: cache.kv_heads}
            expected |= {f"{name}.{kind}": {**sizes, 3: cache.head_dim} for kind in cache.kinds}
    if candidates:
        expected |= {name: {1: 1} for name in CANDIDATE_OUTPUTS}
    plausible = len(set(cache.kinds)) == len(cache.kinds) and ("latent" not in cache.kinds or cache.kv_heads == 1)
    same = (
        plausible
        and found.keys() == expected.keys()
        and all(
            axis < len(found[name]) and found[name][axis] == size
            for name, sizes in expected.items()
            for axis, size in sizes.items()
        )
    )
    if manifest.positions is not None:
        same &= len(manifest.positions.streams) == len(manifest.positions.inverse_frequencies)
    held = CACHE_TYPES.get(cache.dtype)
    same &= all(value.type == held for value in values if value.name.startswith(("past_key_values.", "present.")))
    needed = {KEEP_INPUT} if manifest.vision is None else {KEEP_INPUT, IMAGE_MASK, IMAGE_EMBEDS}
    needed |= {TEMPERATURES, SEEN} if candidates else set()
    if not same or not needed <= optional:
        raise BadInputError(
            f"the graph in {folder} has other inputs or outputs than its manifest implies: copy or export the artifact "
            "again"
        )
