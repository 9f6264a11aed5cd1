"""Which class of x86-64 CPU this is, as far as integer kernels care."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from inference_pio.errors import BadInputError

CLASSES = (
    ("avx512-vnni", frozenset({"avx512f", "avx512vl", "avx512_vnni"})),
    ("avx-vnni", frozenset({"avx2", "avx_vnni"})),
    ("avx512", frozenset({"avx512f", "avx512vl", "avx512bw"})),
    ("avx2", frozenset({"avx2"})),
)
"""Classes from best to least, with the flags (as Linux spells them) that make a CPU a member."""
PRECISE_PRODUCTS = "session.x64quantprecision"
"""Session option of ONNX Runtime: "1" turns s8 weights of integer products into u8 ones, whose kernels are exact.

ONNX Runtime does so on VNNI CPUs too, where it costs more than half the speed of a prompt: set it on the others only.
"""
_PRODUCT_MODEL = bytes.fromhex(
    "08043a5c0a180a01610a0162120179220d4d61744d756c496e74656765721201675a130a0161120e0a0c080212080a020801"
    "0a0208045a130a0162120e0a0c080312080a0208040a02080162130a0179120e0a0c080612080a0208010a02080142040a00"
    "100a"
)
"""An ONNX model (102 bytes, opset 10) of one node, y s32 [1, 1] = MatMulInteger(a u8 [1, 4], b s8 [4, 1])."""


def cpu_flags() -> frozenset[str]:
    """Instruction-set flags of this CPU; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), ()))


def cpu_class(flags: frozenset[str]) -> str:
    """The best class that `flags` allow, or the machine's name where there is none."""
    return next((name for name, needed in CLASSES if needed <= flags), platform.machine() or "unknown")


def check_cpu_class(allowed: list[str]) -> None:
    """Raise BadInputError when an artifact is not valid on this CPU."""
    found = cpu_class(cpu_flags())
    if "any" not in allowed and found not in allowed:
        raise BadInputError(
            f"the artifact is valid on CPUs of class {', '.join(allowed)}, and this one is {found}: export it with "
            "another recipe"
        )


@cache
def products_saturate(onnxruntime: Any) -> bool:
    """Whether u8 x s8 products of the module `onnxruntime` saturate here: one is computed, once per process.

    Unlike flags this asks the kernels themselves, so it holds on every system and under emulation, where the flags
    in /proc are those of the machine outside.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(_PRODUCT_MODEL, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"a": np.full((1, 4), 255, np.uint8), "b": np.full((4, 1), 127, np.int8)})
    return int(found[0, 0]) != 4 * 255 * 127


def physical_cores() -> int:
    """Physical cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or usable, usable))
