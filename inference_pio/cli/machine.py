"""What `doctor` finds out about a machine and its installation."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from inference_pio.cli.gpu_problems import GPU_PACKAGES, gpu_problems, unserved_problems, verdict
from inference_pio.graphs.hardware import find_hardware, profiles
from inference_pio.machine.cpu import cpu_name
from inference_pio.machine.gpus import Gpu, find_gpus
from inference_pio.machine.pci import loaded_driver, nvidia_devices
from inference_pio.runtime.backends.ort_session import turn_telemetry_off
from inference_pio.runtime.cpu import cpu_class, cpu_flags, physical_cores

FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
PACKAGES = (
    *("numpy", "tokenizers", "pillow", "onnx", "onnx-ir", "torch", "transformers"),
    *("onnxruntime-genai", "tensorrt", "polygraphy"),
)
WHEELS = ("onnxruntime", "onnxruntime-gpu")


def diagnose() -> dict[str, Any]:
    """Facts about CPU, memory, disk, ONNX Runtime, GPUs and packages, and a list of problems with their mending."""
    flags = cpu_flags()
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    wheels = {name: _installed(name) for name in WHEELS}
    providers, import_problem = _providers()
    gpus = find_gpus()
    return {
        "python": platform.python_version(),
        "cpu": {
            "name": cpu_name(),
            "class": cpu_class(flags),
            "hardware": cpu_hardware(cpu_class(flags)),
            "features": [name for name in FEATURES if name in flags],
            "physical_cores": physical_cores(),
        },
        "memory": {"total": memory.total, "available": memory.available},
        "disk": {"folder": str(Path.cwd()), "free": disk.free},
        "onnxruntime": {"version": wheels["onnxruntime"] or wheels["onnxruntime-gpu"], "providers": providers},
        "gpus": [{**asdict(gpu), "verdict": verdict(gpu)} for gpu in gpus],
        "packages": {name: _installed(name) for name in PACKAGES},
        "problems": [*_problems(wheels, import_problem, flags), *_gpu_problems(gpus)],
    }


def cpu_hardware(name: str) -> str:
    """The profile of a CPU class, or the one of all CPUs where the class has none."""
    own = [p.name for p in profiles() if not p.is_gpu and p.name == f"cpu-{name}"]
    return own[0] if own else find_hardware("auto", "ort-cpu").name


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


def _gpu_problems(gpus: Sequence[Gpu]) -> list[str]:
    if not gpus:
        return unserved_problems(nvidia_devices(), loaded_driver())
    return gpu_problems(gpus, {name: _installed(name) for name in GPU_PACKAGES})


def _providers() -> tuple[list[str], str | None]:
    turn_telemetry_off()
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
