"""What `doctor` finds out about a machine and its installation."""

from __future__ import annotations

import platform
import shutil
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from inference_pio.machine.gpus import find_gpus
from inference_pio.runtime.cpu import cpu_class, cpu_flags, physical_cores

FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
PACKAGES = ("numpy", "tokenizers", "pillow", "onnx", "onnx-ir", "torch", "transformers", "onnxruntime-genai")
WHEELS = ("onnxruntime", "onnxruntime-gpu")


def diagnose() -> dict[str, Any]:
    """Facts about CPU, memory, disk, ONNX Runtime, GPUs and packages, and a list of problems with their mending."""
    flags = cpu_flags()
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    wheels = {name: _installed(name) for name in WHEELS}
    providers, import_problem = _providers()
    return {
        "python": platform.python_version(),
        "cpu": {
            "name": _cpu_name(),
            "class": cpu_class(flags),
            "features": [name for name in FEATURES if name in flags],
            "physical_cores": physical_cores(),
        },
        "memory": {"total": memory.total, "available": memory.available},
        "disk": {"folder": str(Path.cwd()), "free": disk.free},
        "onnxruntime": {"version": wheels["onnxruntime"] or wheels["onnxruntime-gpu"], "providers": providers},
        "gpus": _gpus(),
        "packages": {name: _installed(name) for name in PACKAGES},
        "problems": _problems(wheels, import_problem, flags),
    }


def _gpus() -> list[dict[str, Any]]:
    return [{**asdict(gpu), "verdict": _gpu_verdict(gpu.compute_capability)} for gpu in find_gpus()]


def _gpu_verdict(capability: str) -> str:
    """What artifacts of this version can do on a GPU."""
    return f"artifacts run on the CPU; no target for compute capability {capability} is built in"


def _problems(wheels: dict[str, str | None], import_problem: str | None, flags: frozenset[str]) -> list[str]:
    problems = []
    if all(wheels.values()):
        problems.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: uninstall both, then install "
            "one of the extras [cpu] or [cuda]"
        )
    if not any(wheels.values()):
        problems.append("no ONNX Runtime: pip install 'inference-pio[cpu]'")
    elif import_problem:
        problems.append(f"ONNX Runtime is installed but does not import ({import_problem}): reinstall it")
    if platform.machine() in ("x86_64", "AMD64") and flags and "avx2" not in flags:
        problems.append("this CPU has no AVX2: expect a small fraction of the usual speed")
    return problems


def _providers() -> tuple[list[str], str | None]:
    try:
        import onnxruntime
    except ImportError as error:
        return [], str(error)
    return list(onnxruntime.get_available_providers()), None


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
