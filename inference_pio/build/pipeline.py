"""Building every engine of an artifact, one process after the other; what was built before is kept."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.locking import FolderBusyError, FolderLock
from inference_pio.artifact.manifest import CACHE_ITEM_BYTES, GraphFacts, Manifest
from inference_pio.build.limits import Limits, limits_of
from inference_pio.build.options import BuildOptions, BuildProgress, BuildReport, BuiltEngine, SilentProgress
from inference_pio.build.profiles import covered, profiles
from inference_pio.build.worker import Job
from inference_pio.errors import BadInputError, InferencePioError, ResourceLimitError
from inference_pio.runtime.backends.engine_store import EngineStore, graph_hash
from inference_pio.runtime.backends.tensorrt_engines import ROLES

Run = Callable[[Job, Path], dict[str, Any]]
"""Does a job, with its messages in a log file, and returns what the worker says."""

HOST_BYTES = 10
"""Host memory that building takes per weight: 6.9 GiB were measured for 769 million (docs/tensorrt.md)."""
ENGINE_SHARE = 1.3
"""Disk that an engine takes, as a share of its weights."""
WITHOUT_INT8 = ("5.0", "5.2", "5.3", "6.0", "6.2")
"""Compute capabilities, of those that TensorRT 8.5 serves: NVIDIA's support matrix, and TensorRT issue 3157."""
KINDS = {BadInputError.exit_code: BadInputError, ResourceLimitError.exit_code: ResourceLimitError}


def build(
    artifact: Artifact,
    options: BuildOptions,
    cache_dir: Path,
    progress: BuildProgress | None = None,
    run: Run | None = None,
) -> BuildReport:
    """Build the engines of an artifact for the GPU of this machine into the user's cache.

    Raises BadInputError for an artifact that is not for TensorRT, without a GPU or TensorRT, or when TensorRT refuses a
    graph; ResourceLimitError when host memory or disk is too small. Engines built so far stay and are used next time.
    """
    manifest, progress, run = artifact.manifest, progress or SilentProgress(), run or run_worker
    limits = limits_of(artifact, options)
    graphs = [graph for graph in manifest.graphs if graph.role in ROLES]
    with tempfile.TemporaryDirectory(prefix="inference-pio-build-") as scratch:
        log = Path(scratch) / "log"
        facts = run(Job(str(Path(scratch) / "facts"), manifest.dialect, options.device), log)
    _check_int8(manifest, facts)
    store = EngineStore(cache_dir, manifest, {key: facts[key] for key in ("gpu", "compute_capability", "tensorrt")})
    store.create()
    artifact.check_large_files(None)
    lock = _locked(store)
    try:
        engines = []
        for number, graph in enumerate(graphs, start=1):
            progress.start(graph.file, number, len(graphs))
            engines.append(_one(artifact, graph, options, store, limits, run))
            progress.done(engines[-1])
    finally:
        shutil.rmtree(_partial(store), ignore_errors=True)
        lock.release()
    store.touch()
    places = str(store.folder), facts["gpu"], facts["tensorrt"]
    return BuildReport(*places, limits.cache_rows, limits.image_tokens, tuple(engines))


def _one(
    artifact: Artifact, graph: GraphFacts, options: BuildOptions, store: EngineStore, limits: Limits, run: Run
) -> BuiltEngine:
    manifest, source = artifact.manifest, graph_hash(artifact.manifest, graph)
    known, asked = store.record(graph), profiles(graph, limits)
    if known is not None and known.source == source and covered(asked, known.profiles) and not options.force:
        return BuiltEngine(graph.file, known.size, known.seconds, True)
    _check_host(manifest, graph, store.folder)
    folder = _partial(store)
    job = Job(
        result=str(folder / "result"),
        dialect=manifest.dialect,
        device=options.device,
        onnx=str(artifact.file(graph.file).resolve()),
        engine=str(folder / "engine"),
        timing_cache=str(store.folder / "timing.cache"),
        profiles=tuple(asked),
        quantized=_quantized(manifest),
        workspace=options.workspace,
    )
    found = run(job, store.folder / f"{Path(graph.file).stem}.log")
    record = store.put(graph, Path(job.engine), source, asked, found["seconds"])
    return BuiltEngine(graph.file, record.size, record.seconds, False)


def run_worker(job: Job, log: Path) -> dict[str, Any]:
    """Do a job in a new Python process; raises the worker's own error, or ResourceLimitError when it was killed."""
    file = Path(job.result).with_suffix(".job")
    job.write(file)
    with log.open("wb") as messages:
        process = subprocess.run(
            [sys.executable, "-m", "inference_pio.build.worker", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if process.returncode == 0:
        found: dict[str, Any] = json.loads(Path(job.result).read_text("utf-8"))
        return found
    what = Path(job.onnx).name if job.onnx else "looking for a GPU"
    if process.returncode < 0:
        raise ResourceLimitError(
            f"the process for {what} was ended by signal {-process.returncode}, most likely for lack of host memory: "
            f"close other programs, or export with fewer --block-layers (its messages: {log})"
        )
    lines = log.read_text("utf-8", "replace").splitlines()
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if said:
        raise KINDS.get(process.returncode, InferencePioError)(said[-1])
    last = next((line for line in reversed(lines) if line.strip()), "no message")
    raise InferencePioError(f"the process for {what} failed: {last} (its messages: {log})")


def _partial(store: EngineStore) -> Path:
    return store.folder / ".partial"


def _locked(store: EngineStore) -> FolderLock:
    try:
        return FolderLock(_partial(store))
    except FolderBusyError:
        raise BadInputError(f"another process is building these engines in {store.folder}: wait for it") from None


def _check_host(manifest: Manifest, graph: GraphFacts, folder: Path) -> None:
    """Raise ResourceLimitError unless host memory and disk have room for a graph's engine."""
    data = manifest.files.get(f"{graph.file}.data") or manifest.files[graph.file]
    needed = HOST_BYTES * data.size // (1 if _quantized(manifest) else CACHE_ITEM_BYTES[manifest.cache.dtype])
    available = psutil.virtual_memory().available
    if needed > available:
        fewer = ", or export with fewer --block-layers" if graph.role == "block" else ""
        raise ResourceLimitError(
            f"building {graph.file} takes about {needed // 10**6} MB of memory and {available // 10**6} MB are "
            f"available: close other programs{fewer}"
        )
    wanted, free = int(ENGINE_SHARE * data.size), shutil.disk_usage(folder).free
    if wanted > free:
        raise ResourceLimitError(
            f"the engine of {graph.file} takes about {wanted // 10**6} MB of disk and {folder} has {free // 10**6} MB: "
            "free some space"
        )


def _check_int8(manifest: Manifest, facts: Mapping[str, Any]) -> None:
    """Raise BadInputError for a quantized artifact on a GPU without 8-bit products, which TensorRT then refuses."""
    if _quantized(manifest) and facts["compute_capability"] in WITHOUT_INT8:
        raise BadInputError(
            f"{facts['gpu']} (compute capability {facts['compute_capability']}) has no 8-bit products: export with "
            "--precision fp32"
        )


def _quantized(manifest: Manifest) -> bool:
    return any(name.endswith("::QuantizeLinear") for name in manifest.requires.operators)
