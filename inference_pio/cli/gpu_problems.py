"""What `doctor` says about GPUs: which class each is of, and which of the installed versions does not serve it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inference_pio.graphs.hardware import find_hardware, profile_of
from inference_pio.graphs.hardware.hardware import Hardware
from inference_pio.machine.gpus import Gpu
from inference_pio.machine.pci import PASCAL
from inference_pio.machine.wheels import LEAST_DRIVER, WHEELS, Support, find_wheel, numbers

EXTRAS = {
    "ort-cuda/sm61": "cuda-sm61",
    "ort-cuda/modern": "cuda",
    "tensorrt/trt85": "trt85",
    "tensorrt/modern": "tensorrt",
}
"""The extra to install, by `Target.key`."""
CUDNN = ("nvidia-cudnn-cu11", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")
GPU_PACKAGES = ("onnxruntime-gpu", "tensorrt", *CUDNN)
"""Packages whose versions decide what runs."""
LEAST_MODERN_TENSORRT = "10.15"

Versions = Mapping[str, str | None]
"""Package -> installed version."""


def verdict(gpu: Gpu) -> str:
    """Which artifacts run on a GPU, and what to install for them."""
    profile = profile_of(gpu)
    if profile is None:
        return f"no artifact runs on compute capability {gpu.compute_capability}: use the CPU"
    targets = (f"{target} with inference-pio[{_extra(profile, target)}]" for target in profile.targets)
    return f"class {profile.name}: runs artifacts of {', '.join(targets)}"


def gpu_problems(gpus: Sequence[Gpu], versions: Versions) -> list[str]:
    """What does not fit the GPUs, and how to mend it; each problem once."""
    found = []
    for gpu in gpus:
        profile = profile_of(gpu)
        if profile is not None:
            found += [*_driver(gpu, profile, versions), *_onnxruntime(gpu, profile, versions)]
            found += [*_cudnn(gpu, profile, versions), *_tensorrt(gpu, profile, versions)]
    return list(dict.fromkeys(found))


def unserved_problems(devices: Sequence[int], driver: str | None) -> list[str]:
    """What keeps NVIDIA GPUs on the bus from being found, where none was; `devices` are their PCI ids."""
    if not devices:
        return []
    last = find_hardware("sm61", "ort-cuda").last.driver
    pascal = any(device in PASCAL for device in devices)
    if driver is None:
        which = f"R{last}, the last that serves this card" if pascal else "today's"
        return [f"an NVIDIA GPU is there, but no driver: install {which}"]
    if pascal and numbers(driver) > numbers(f"{last}.999"):
        return [f"driver {driver} ignores GPUs of compute capability 6.1: install R{last}, the last that serves them"]
    return [f"an NVIDIA GPU is there, but driver {driver} does not answer: see nvidia-smi"]


def _driver(gpu: Gpu, profile: Hardware, versions: Versions) -> list[str]:
    last, installed = profile.last.driver, versions.get("onnxruntime-gpu")
    if last is not None and numbers(gpu.driver)[:1] > numbers(last):
        return [f"driver {gpu.driver} no longer serves {gpu.name}: install R{last}, the last that does"]
    wheel = find_wheel(installed) if installed else None
    if wheel is None or numbers(gpu.driver) >= LEAST_DRIVER[wheel.cuda]:
        return []
    least = ".".join(map(str, LEAST_DRIVER[wheel.cuda]))
    return [f"onnxruntime-gpu {installed} is for CUDA {wheel.cuda}, which needs driver {least}: {gpu.driver} is older"]


def _onnxruntime(gpu: Gpu, profile: Hardware, versions: Versions) -> list[str]:
    installed = versions.get("onnxruntime-gpu")
    wheel = find_wheel(installed) if installed else None
    if wheel is None or "ort-cuda" not in profile.targets:
        return []
    last = profile.last.onnxruntime_gpu
    mend = f"pip install 'inference-pio[{_extra(profile, 'ort-cuda')}]'"
    card = f"{gpu.name} (compute capability {gpu.compute_capability})"
    support = wheel.support(gpu.compute_capability)
    if support is Support.NONE:
        until = f"; {last} is the last that has" if last else ""
        return [f"onnxruntime-gpu {installed} has no code for {card}{until}: {mend}"]
    better = any(other.support(gpu.compute_capability) is Support.NATIVE for other in WHEELS)
    if support is Support.COMPATIBLE and last is not None and better:
        return [f"onnxruntime-gpu {installed} runs code for an older GPU on {card}, without its int8: {mend}"]
    return []


def _cudnn(gpu: Gpu, profile: Hardware, versions: Versions) -> list[str]:
    last = profile.last.cudnn
    if last is None:
        return []
    major, minor, *_ = numbers(last)
    limit = f"{major}.{minor + 1}"
    return [
        f"{name} {installed} does not serve {gpu.name}; {last} is the last that does: pip install '{name}<{limit}'"
        for name in CUDNN
        if (installed := versions.get(name)) and numbers(installed) >= numbers(limit)
    ]


def _tensorrt(gpu: Gpu, profile: Hardware, versions: Versions) -> list[str]:
    installed, last = versions.get("tensorrt"), profile.last.tensorrt
    if installed is None:
        return []
    mend = f"pip install 'inference-pio[{_extra(profile, 'tensorrt')}]'"
    if last is not None and numbers(installed)[:3] > numbers(last):
        return [f"TensorRT {installed} does not serve {gpu.name}; {last} is the last that does: {mend}, on Python 3.10"]
    cudnn = versions.get("nvidia-cudnn-cu11")
    if last is not None and cudnn and numbers(cudnn) >= (9,):
        return [f"TensorRT {installed} loads cuDNN 8, and nvidia-cudnn-cu11 is {cudnn}: {mend}"]
    if last is None and numbers(installed) < numbers(LEAST_MODERN_TENSORRT):
        return [f"TensorRT {installed} is older than {LEAST_MODERN_TENSORRT}, which artifacts need: {mend}"]
    return []


def _extra(profile: Hardware, target: str) -> str:
    return EXTRAS[f"{target}/{profile.dialect_of(target)}"]
