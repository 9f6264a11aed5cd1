"""The NVIDIA GPUs of this machine, as the driver's own tool reports them."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

QUERY = "--query-gpu=name,compute_cap,memory.total,memory.free,driver_version"
TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Gpu:
    """A GPU: marketing name, compute capability ("6.1"), total and free memory in bytes, version of the driver."""

    name: str
    compute_capability: str
    memory: int
    free_memory: int
    driver: str


def find_gpus() -> list[Gpu]:
    """The GPUs in the driver's order; empty where there is none or the driver does not answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        done = subprocess.run(
            [tool, QUERY, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return [gpu for gpu in map(_gpu, lines) if gpu is not None]


def _gpu(line: str) -> Gpu | None:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != 5 or not fields[2].isdigit() or not fields[3].isdigit():
        return None
    name, capability, total, free, driver = fields
    return Gpu(name, capability, int(total) << 20, int(free) << 20, driver)
