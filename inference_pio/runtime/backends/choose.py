"""Which backend runs an artifact."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from inference_pio.artifact.manifest import Manifest
from inference_pio.errors import BadInputError
from inference_pio.runtime.backends.chain import ChainBackend, block_graphs
from inference_pio.runtime.backends.chain_ort import OrtBlocks, open_part
from inference_pio.runtime.backends.ort import OrtBackend
from inference_pio.runtime.config import EngineConfig
from inference_pio.runtime.memory import MemoryBudget

BACKENDS = {"tensorrt": ("tensorrt", "chain")}
"""Of a manifest's target, the backends that run it; the first is the one for `auto`. Others have `ort` alone."""
EXTRAS = {"trt85": "trt85", "modern": "tensorrt"}
"""Of a TensorRT dialect, the extra that installs what runs it."""


def backend_name(manifest: Manifest, asked: str) -> str:
    """The backend for an artifact; raises BadInputError for one that does not run its target."""
    known = BACKENDS.get(manifest.target, ("ort",))
    if asked == "auto":
        return known[0]
    if asked not in known:
        raise BadInputError(f"backend {asked} does not run target {manifest.target_key}: use {' or '.join(known)}")
    return asked


def open_backend(
    folder: Path, manifest: Manifest, config: EngineConfig, threads: int, budget: MemoryBudget, mapped: Path | None
) -> Any:
    """The backend that `config` asks for, or that the artifact is for; raises BadInputError when it is missing."""
    name = backend_name(manifest, config.backend)
    if name == "ort":
        return OrtBackend(folder, manifest, threads, budget, mapped)
    if name == "tensorrt":
        _require_tensorrt(manifest)
    blocks = block_graphs(manifest, folder)
    experts = {}
    for graph in manifest.graphs:
        if graph.role == "experts":
            index = next(number for number, block in enumerate(blocks) if block.layers[-1] == graph.layers[0])
            experts[index] = open_part(folder, graph, threads)
    return ChainBackend(folder, manifest, OrtBlocks(folder, manifest, threads), experts, budget)


def _require_tensorrt(manifest: Manifest) -> None:
    if find_spec("tensorrt") is None:
        raise BadInputError(
            f"this artifact is for TensorRT, which is not installed: pip install "
            f"'inference-pio[{EXTRAS.get(manifest.dialect, 'tensorrt')}]' on a machine with such a GPU, or open it "
            "with backend chain, which runs the same files on the CPU"
        )
