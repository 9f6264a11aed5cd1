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
    """The backend that `config` asks for, or that the artifact is for; raises BadInputError when it is missing."""
    name = backend_name(manifest.target_key, config.backend)
    if name == "ort":
        return OrtBackend(folder, manifest, threads, budget, mapped, memory)
    blocks = block_graphs(manifest, folder)
    graphs = expert_graphs(manifest, blocks, folder)
    experts = {index: open_part(folder, graph, threads) for index, graph in graphs.items()}
    runner: BlockRunner = (
        TensorRTBlocks(manifest, config.cache, gpu_number(config.device))
        if name == "tensorrt"
        else OrtBlocks(folder, manifest, threads)
    )
    return ChainBackend(folder, manifest, runner, experts, budget)


def gpu_number(device: str) -> int:
    """The GPU that `device` names: auto and cuda are the first, cuda:1 the second; raises BadInputError for others."""
    if device in ("auto", "cuda"):
        return 0
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number.isdecimal():
        raise BadInputError(f"device {device} is no GPU, which backend tensorrt needs: use auto, or backend chain")
    return int(number)
