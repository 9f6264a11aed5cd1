"""Whether an artifact's weights are loaded or mapped, and the graph file to open in the latter case."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.hashing import StampCache
from inference_pio.errors import BadInputError
from inference_pio.runtime.backends.ort_session import import_onnxruntime, session_entries, session_options
from inference_pio.runtime.config import EngineConfig, MapWeights
from inference_pio.runtime.mapped.available import available_memory
from inference_pio.runtime.mapped.store import MappedStore, machine_facts

LOG = logging.getLogger("inference_pio")
LOADED = 1.3
"""What loaded weights take at most, as a share of their file: kernels pad and keep some in two forms."""


def mapped_graph(artifact: Artifact, config: EngineConfig, cache_dir: Path, stamps: StampCache | None) -> Path | None:
    """The prepacked graph to open instead of the artifact's own, None when the weights are to be loaded.

    It is made when it is needed and not there yet, after the artifact's hashes were checked. Raises as
    `MappedStore.make`; with `map_weights` auto a graph that cannot be prepacked is loaded, with a warning.
    """
    if not wants_mapping(config, artifact.manifest.memory.weight_bytes):
        return None
    if artifact.manifest.graph("decoder") is None:
        if config.map_weights is MapWeights.ON:
            raise BadInputError(f"{artifact.path} is cut into blocks, which are loaded: leave map_weights out")
        return None
    ort: Any = import_onnxruntime()
    store, file = MappedStore(cache_dir), artifact.manifest.graphs[0].file
    facts = machine_facts(ort, session_entries(ort))
    folder = store.find(artifact.manifest.fingerprint, facts)
    if folder is None:
        artifact.check_large_files(stamps)
        files = artifact.file(file), artifact.file(f"{file}.data")
        try:
            folder = store.make(artifact.manifest.fingerprint, facts, files, ort, lambda: session_options(ort, 1))
        except BadInputError as error:
            if config.map_weights is MapWeights.ON:
                raise
            LOG.warning("%s; the weights are loaded instead", error)
            return None
    return folder / file


def wants_mapping(config: EngineConfig, weight_bytes: int) -> bool:
    """Whether `config` asks for mapping, or leaves it open and the loaded weights would not fit."""
    if config.map_weights is not MapWeights.AUTO:
        return config.map_weights is MapWeights.ON
    return LOADED * weight_bytes > min(available_memory(), config.max_memory or 1 << 62)
