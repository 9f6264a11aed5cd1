"""Engines of tiny artifacts: building them with the fakes, and opening them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.build.options import BuildOptions, BuildReport
from inference_pio.build.pipeline import build
from inference_pio.build.worker import Job, run
from inference_pio.runtime import Engine, EngineConfig

CONTEXT = 512
HARDWARE = {"trt85": "sm61", "modern": "sm86", "half": "sm86"}
"""By dialect; `half` is `modern` in float16."""
VERSIONS = {"trt85": "8.5.3.1", "modern": "10.15.1.29", "half": "10.15.1.29"}
only_trt85 = pytest.mark.parametrize("dialect", ["trt85"], indirect=True)
"""For what does not depend on the dialect."""


def run_here(job: Job, log: Path) -> dict[str, Any]:
    """Do a job in this process, where the fakes are."""
    job.write(Path(job.result).with_suffix(".job"))
    return run(Job(**json.loads(Path(job.result).with_suffix(".job").read_text("utf-8"))))


def build_here(artifact: Path, cache: Path, **options: Any) -> BuildReport:
    """Build an artifact's engines in this process."""
    chosen = BuildOptions(**{"max_context": CONTEXT, **options})
    return build(Artifact.open(artifact), chosen, cache, run=run_here)


def opened(artifact: Path, cache: Path, backend: str = "tensorrt", **more: Any) -> Engine:
    """Open an artifact with engines from a cache."""
    return Engine.open(artifact, EngineConfig(backend=backend, cache_dir=cache, threads=1, **more))
