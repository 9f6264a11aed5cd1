"""A tiny artifact for TensorRT, and building it with the fakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inference_pio.artifact.bundle import Artifact
from inference_pio.build.options import BuildOptions, BuildReport
from inference_pio.build.pipeline import build
from inference_pio.build.worker import Job, run

CONTEXT = 512


def run_here(job: Job, log: Path) -> dict[str, Any]:
    """Do a job in this process, where the fakes are."""
    job.write(Path(job.result).with_suffix(".job"))
    return run(Job(**json.loads(Path(job.result).with_suffix(".job").read_text("utf-8"))))


def build_here(artifact: Path, cache: Path, **options: Any) -> BuildReport:
    """Build an artifact's engines in this process."""
    chosen = BuildOptions(**{"max_context": CONTEXT, **options})
    return build(Artifact.open(artifact), chosen, cache, run=run_here)
