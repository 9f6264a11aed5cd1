"""ONNX Runtime on an NVIDIA GPU: is everything there that it needs, and with which options it runs."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Sequence
from typing import Any

from inference_pio.errors import BadInputError
from inference_pio.machine.gpus import Gpu
from inference_pio.machine.libraries import packaged
from inference_pio.machine.wheels import Support, best_wheel, find_wheel

CUDA = "cuda"
CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"

PASCAL = (1, 20, 2)
"""The version of onnxruntime-gpu that the extra `cuda-sm61` brings."""

LIBRARIES = ("cudart", "nvrtc", "cublasLt", "cublas", "cufft", "curand", "cudnn")
"""Libraries that the provider needs, in the order in which they need each other."""


def check_wheel(ort: Any, gpus: Sequence[Gpu], index: int) -> None:
    """Raise BadInputError when the installed wheel cannot run on the GPU; what it is called says what to install."""
    if CUDA_PROVIDER not in ort.get_available_providers():
        raise BadInputError(
            "the installed onnxruntime has no CUDA provider: pip uninstall onnxruntime, then pip install "
            "'inference-pio[cuda]' (or 'inference-pio[cuda-sm61]' for a card of the Pascal generation), or choose "
            "device 'cpu'"
        )
    if gpus and index >= len(gpus):
        raise BadInputError(f"there is no GPU {index}: this machine has {len(gpus)}")
    if not gpus:
        return  # the provider itself will say what is wrong
    gpu = gpus[index]
    installed = find_wheel(ort.__version__)
    if installed is not None and installed.support(gpu.compute_capability) is Support.NONE:
        raise BadInputError(
            f"onnxruntime-gpu {ort.__version__} has no code for {gpu.name} (compute capability "
            f"{gpu.compute_capability}): {_mend(gpu.compute_capability)}"
        )


def cuda_provider(index: int) -> tuple[str, dict[str, str]]:
    """The provider with its options: memory as it is asked for, float32 products in float32."""
    return CUDA_PROVIDER, {
        "device_id": str(index),
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
    }


def check_started(session: Any) -> None:
    """Raise BadInputError when a session runs on the CPU though it was to run on a GPU."""
    if CUDA_PROVIDER not in session.get_providers():
        raise BadInputError(
            "ONNX Runtime's CUDA provider cannot start, most likely because libraries of CUDA, cuBLAS or cuDNN are "
            "missing or of another version: pip install 'inference-pio[cuda]' brings them"
        )


def load_libraries() -> None:
    """Load the CUDA libraries that pip installed, before the provider looks for them.

    What is missing shows when the provider starts.
    """
    found = packaged("lib*.so.*")
    for file in (file for name in LIBRARIES for file in found if file.name.startswith(f"lib{name}")):
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)


def _mend(capability: str) -> str:
    """What to do about a wheel without code for a GPU."""
    best = best_wheel(capability)
    if best is None:
        return "no version has; choose device 'cpu'"
    version = ".".join(map(str, best.version))
    package = "inference-pio[cuda-sm61]" if best.version == PASCAL else f"onnxruntime-gpu=={version}"
    return f"pip install '{package}' ({version} has)"
