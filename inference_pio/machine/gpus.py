"""The NVIDIA GPUs of this machine, as NVML reports them where its bindings are installed, else as the driver's tool."""

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
    found = _from_nvml()
    return _from_tool() if found is None else found


def _from_nvml() -> list[Gpu] | None:
    """By NVML (package nvidia-ml-py); None where it is not installed or finds no driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            device = pynvml.nvmlDeviceGetHandleByIndex(index)
            capability = "{}.{}".format(*pynvml.nvmlDeviceGetCudaComputeCapability(device))
            memory = pynvml.nvmlDeviceGetMemoryInfo(device)
            name = _text(pynvml.nvmlDeviceGetName(device))
            found.append(Gpu(name, capability, int(memory.total), int(memory.free), driver))
        return found
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    """Older bindings return bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _from_tool() -> list[Gpu]:
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
