"""Opening sessions of ONNX Runtime, and what can go wrong with them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference_pio.errors import BadInputError
from inference_pio.runtime.backends.cuda import CPU_PROVIDER, CUDA, check_started, cuda_provider
from inference_pio.runtime.backends.device_memory import DeviceMemory
from inference_pio.runtime.cpu import PRECISE_PRODUCTS, products_saturate

KEEP_INPUT = "num_logits_to_keep"


def import_onnxruntime() -> Any:
    """The onnxruntime module; raises BadInputError that names the extra to install.

    Its telemetry is turned off, unless something else has imported it before.
    """
    turn_telemetry_off()
    try:
        import onnxruntime
    except ImportError as error:
        raise BadInputError(
            f"ONNX Runtime cannot be imported ({error}): install it with pip install 'inference-pio[cpu]'"
        ) from None
    return onnxruntime


def turn_telemetry_off() -> None:
    """Ask ONNX Runtime to send nothing; to be called before it is imported.

    Its wheels for Linux (those of 1.31 do) write an identifier into the user's cache and send events to Microsoft from
    the import on; the module's own function comes too late for the first event (Privacy.md in the wheel).
    """
    os.putenv("ORT_DISABLE_TELEMETRY", "1")


def session_entries(ort: Any) -> dict[str, str]:
    """Session options by name that this CPU needs."""
    return {PRECISE_PRODUCTS: "1"} if products_saturate(ort) else {}


def session_options(ort: Any, threads: int, entries: Mapping[str, str] | None = None) -> Any:
    """The options of every session; `entries` are more of them by name."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised, and need not be printed as well
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    for name, value in {**session_entries(ort), **(entries or {})}.items():
        options.add_session_config_entry(name, value)
    return options


def open_session(
    path: Path, threads: int, memory: DeviceMemory | None = None, entries: Mapping[str, str] | None = None
) -> Any:
    """A session on the CPU, or on the GPU that `memory` is of; `entries` as in `session_options`.

    Raises BadInputError for a file that cannot be loaded, and on a GPU when the provider could not start, which ONNX
    Runtime itself answers with the CPU.
    """
    ort = import_onnxruntime()
    on_gpu = memory is not None and memory.kind == CUDA
    providers = [cuda_provider(memory.index), CPU_PROVIDER] if memory is not None and on_gpu else [CPU_PROVIDER]
    options = session_options(ort, threads, entries)
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except ort_errors(ort) as error:
        raise BadInputError(f"{path.parent} cannot be loaded by ONNX Runtime: {first_line(error)}") from None
    if on_gpu:
        check_started(session)
    return session


def arena_of(memory: DeviceMemory | None) -> str:
    """What ONNX Runtime calls the allocator of activations, in the run option that shrinks it."""
    return "cpu:0" if memory is None or memory.kind != CUDA else f"gpu:{memory.index}"


def ort_errors(ort: Any) -> tuple[type[Exception], ...]:
    """Everything ONNX Runtime raises; its exceptions have no common base but Exception, and came one by one."""
    state = ort.capi.onnxruntime_pybind11_state
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile", "NotFound")
    more = ("NotImplemented", "RuntimeException", "EPFail", "EngineError")
    known = (getattr(state, name) for name in names + more if hasattr(state, name))
    return (*known, RuntimeError, ValueError)


def first_line(error: Exception) -> str:
    """What an exception says, short enough for a sentence."""
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def check_version(found: str, needed: str) -> None:
    """Raise BadInputError when ONNX Runtime `found` is older than `needed`."""

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split("+")[0].split(".")[:2] if part.isdigit())

    if numbers(found) < numbers(needed):
        raise BadInputError(
            f"the artifact needs onnxruntime {needed} or newer and {found} is installed: pip install -U onnxruntime"
        )
