"""Any x86-64 CPU that ONNX Runtime supports; the blockwise kernels choose their instructions when they run."""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Hardware

HARDWARE = Hardware(name="cpu", dialects=(("ort-cpu", ""),))
