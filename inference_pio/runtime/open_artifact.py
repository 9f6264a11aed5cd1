"""Opening an artifact: may it run here, where, and what of it is in memory, counted against the budget."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.hashing import StampCache
from inference_pio.artifact.jsonfile import read_json_object
from inference_pio.artifact.manifest import GraphFacts, Manifest
from inference_pio.errors import BadInputError
from inference_pio.runtime.backends.choose import open_backend
from inference_pio.runtime.backends.device_memory import DeviceMemory
from inference_pio.runtime.backends.tower import Tower
from inference_pio.runtime.config import EngineConfig, MapWeights, VerifyHashes
from inference_pio.runtime.cpu import check_cpu_class, physical_cores
from inference_pio.runtime.device import choose_memory
from inference_pio.runtime.generation import CHUNK_TOKENS
from inference_pio.runtime.mapped.choice import mapped_graph
from inference_pio.runtime.memory import MemoryBudget
from inference_pio.runtime.prefix_cache import NullPrefixCache, PrefixCache, RadixPrefixCache
from inference_pio.runtime.sequences import Sequences
from inference_pio.runtime.tokenizer import Tokenizer
from inference_pio.runtime.vision.input import VisionInput

PROCESS_BYTES = 150 << 20
"""Interpreter, libraries and activations, counted against `max_memory`."""

MAPPED_SHARE = 0.1
"""Of weights that are mapped, what may be in memory for good: one of them while it is packed, and small tensors."""

FILES_READ = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
"""Files that are read by name, besides the graphs."""


class OpenArtifact:
    """What an engine has of an artifact. Threads may share it."""

    def __init__(self, artifact: Artifact, config: EngineConfig, mapped: Path | None, memory: DeviceMemory | None):
        """`mapped` is the prepacked form of the artifact's graph, where its weights stay on disk.

        `memory` is where cache and logits live, None for a graph made for CPUs.
        """
        self.path = artifact.path
        self.manifest: Manifest = artifact.manifest
        artifact.refuse_unlisted(FILES_READ)
        self.context_length = min(self.manifest.model.context_length, config.max_context or 1 << 62)
        self.vocab_size = self.manifest.model.vocab_size
        self.tokenizer = Tokenizer.load(artifact.path)
        self.generation_config = read_json_object(artifact.file("generation_config.json"))
        threads = config.threads or physical_cores()

        self.budget = MemoryBudget(config.max_memory)
        weights = self.manifest.memory.weight_bytes
        kept = weights if mapped is None else int(MAPPED_SHARE * weights)
        self.budget.take(kept + PROCESS_BYTES, "loading the weights")
        self.budget.take(config.prefix_cache_bytes, "the prefix cache")
        self.prefix_cache: PrefixCache = (
            RadixPrefixCache(CHUNK_TOKENS, config.prefix_cache_bytes)
            if config.prefix_cache_bytes
            else NullPrefixCache()
        )
        self.vision: VisionInput | None = None
        """What prepares images, where the model takes any."""
        facts = self.manifest.vision
        if facts is None and config.max_image_tokens is not None:
            raise BadInputError(f"the model of {artifact.path} takes text only: leave max_image_tokens out")
        if facts is not None:
            self.budget.take(config.image_cache_bytes, "the cache of image features")
            self.vision = VisionInput(artifact, facts, self.tokenizer, self._open_tower, self.budget, config)
        # Last, because what follows it would have to close it when it fails.
        self._backend = open_backend(artifact.path, self.manifest, config, threads, self.budget, mapped, memory)
        self.sequences = Sequences(self._backend)
        self.budget.reclaim = self.sequences.release_idle  # only steps, which hold the turn, take more from here on

    def close(self) -> None:
        """Release weights and caches, after the step that runs."""
        self.sequences.close()  # no step runs from here on
        self.prefix_cache.clear()
        if self.vision is not None:
            self.vision.close()

    def _open_tower(self, graph: GraphFacts) -> Tower:
        tower: Tower = self._backend.open_tower(graph)
        return tower


def open_artifact(path: Path, config: EngineConfig) -> OpenArtifact:
    """Check and load an artifact folder; raises as `Engine.open` says."""
    artifact = Artifact.open(path)
    accuracy = artifact.manifest.accuracy
    if accuracy is not None and not accuracy.passed and not config.allow_failed:
        raise BadInputError(
            f"{path} failed its accuracy gate {accuracy.gate} when it was exported: export it with another "
            "recipe, or open it with allow_failed=True"
        )
    check_cpu_class(artifact.manifest.requires.cpu_classes)
    stamps = StampCache(config.cache) if config.verify_hashes is VerifyHashes.FIRST_OPEN else None
    memory = choose_memory(artifact.manifest, config)
    if memory is not None and config.map_weights is MapWeights.ON:
        raise BadInputError(f"{path} was exported for GPUs, and its weights are loaded: leave map_weights out")
    mapped = mapped_graph(artifact, config, config.cache, stamps) if memory is None else None
    with ThreadPoolExecutor(max_workers=1) as pool:
        hashed = pool.submit(artifact.check_large_files, stamps)
        opened = OpenArtifact(artifact, config, mapped, memory)
        try:
            hashed.result()
        except BaseException:
            opened.close()
            raise
    return opened
