"""Which backend runs an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inference_pio.artifact.manifest import Manifest
from inference_pio.errors import BadInputError
from inference_pio.runtime.backends.blocks import BlockRunner
from inference_pio.runtime.backends.chain import ChainBackend, block_graphs, expert_graphs
from inference_pio.runtime.backends.chain_ort import OrtBlocks, open_part
from inference_pio.runtime.backends.device_memory import DeviceMemory
from inference_pio.runtime.backends.ort import OrtBackend
from inference_pio.runtime.backends.tensorrt import TensorRTBlocks
from inference_pio.runtime.config import EngineConfig
from inference_pio.runtime.memory import MemoryBudget

BACKENDS = {"tensorrt": ("tensorrt", "chain")}
"""Of a manifest's target, the backends that run it; the first is the one for `auto`. Others have `ort` alone."""


def backend_name(target_key: str, asked: str) -> str:
    """The backend for a target, named as `Manifest.target_key`; raises BadInputError for one that does not run it."""
    known = BACKENDS.get(target_key.partition("/")[0], ("ort",))
    if asked == "auto":
        return known[0]
    if asked not in known:
        raise BadInputError(f"backend {asked} does not run target {target_key}: use {' or '.join(known)}")
    return asked


def open_backend(
    folder: Path,
    manifest: Manifest,
    config: EngineConfig,
    threads: int,
    budget: MemoryBudget,
    mapped: Path | None,
    memory: DeviceMemory | None = None,
) -> Any:
    """The backend that `config` asks for, or that the artifact is for; raises BadInputError when it cannot be."""
    name = backend_name(manifest.target_key, config.backend)
    if name == "ort":
        return OrtBackend(folder, manifest, threads, budget, mapped, memory)
    if name == "tensorrt" and config.device == "cpu":
        raise BadInputError("backend tensorrt does not run on device cpu: use device auto, or backend chain")
    if name == "chain" and config.device not in ("auto", "cpu"):
        raise BadInputError(
            f"backend chain runs on the CPU, not on device {config.device}: use device auto, or backend tensorrt"
        )
    blocks = block_graphs(manifest, folder)
    graphs = expert_graphs(manifest, blocks, folder)
    experts = {index: open_part(folder, graph, threads) for index, graph in graphs.items()}
    runner: BlockRunner = (
        TensorRTBlocks(manifest, config.cache, config.gpu_number)
        if name == "tensorrt"
        else OrtBlocks(folder, manifest, threads)
    )
    try:
        return ChainBackend(folder, manifest, blocks, runner, experts, budget)
    except BadInputError:
        runner.close()
        raise
