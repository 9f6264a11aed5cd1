"""ONNX Runtime on an NVIDIA GPU: is everything there that it needs, and with which options it runs.

Which wheel has code for which card was read from the machine code in the published wheels (Linux, Python 3.11).
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference_pio.errors import BadInputError
from inference_pio.machine.gpus import Gpu

CUDA = "cuda"
CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"

OLDEST = (((1, 27), (7, 5)), ((1, 22), (6, 0)), ((1, 16), (5, 2)))
"""(Version of onnxruntime-gpu, oldest compute capability that its wheels have code for), newest first."""
LAST_FOR_PASCAL = "1.20.2"
"""The last wheel with code for compute capability 6.1 itself; later ones run code for 6.0, without int8 products."""

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
    found, capability = _numbers(ort.__version__), _numbers(gpu.compute_capability)
    oldest = next((oldest for version, oldest in OLDEST if found >= version), None)
    if oldest is not None and capability < oldest:
        extra = "cuda-sm61" if capability >= (6, 1) and capability < (7, 0) else "cuda"
        pin = f"it brings {LAST_FOR_PASCAL}" if extra == "cuda-sm61" else "with onnxruntime-gpu<1.27"
        raise BadInputError(
            f"onnxruntime-gpu {ort.__version__} has no code for {gpu.name} (compute capability "
            f"{gpu.compute_capability}): pip install 'inference-pio[{extra}]' ({pin})"
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
    """Load the CUDA libraries that pip installed, which the dynamic loader does not find by itself.

    What is missing shows when the provider starts.
    """
    found = [file for entry in sys.path for file in sorted(Path(entry).glob("nvidia/*/lib/lib*.so.*"))]
    for file in (file for name in LIBRARIES for file in found if file.name.startswith(f"lib{name}")):
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
