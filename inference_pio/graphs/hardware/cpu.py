"""Any x86-64 CPU that ONNX Runtime supports.

Artifacts for it run on every class; the kernels choose their instructions when they run.
"""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Hardware

HARDWARE = Hardware(
    name="cpu",
    title="Any x86-64 CPU that ONNX Runtime supports",
    dialects=(("ort-cpu", ""),),
    dtypes=("fp32", "int8"),
    int8="whatever its kernels find when they run",
    cpu_classes=("any",),
    cards=(),
    sources=(),
)
