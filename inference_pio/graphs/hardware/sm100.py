"""Blackwell for data centres: B200, B300.

onnxruntime-gpu 1.27.0 has code for 10.0; 1.31.1, which artifacts of ort-cuda ask for, has neither that nor PTX. So that
target does not run here.
"""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Card, Hardware, LastVersions

HARDWARE = Hardware(
    name="sm100",
    title="Blackwell for data centres: B200, B300",
    dialects=(("tensorrt", "modern"),),
    dtypes=("fp32", "fp16", "bf16", "fp8", "fp4", "int8"),
    int8="tensor cores",
    compute_capabilities=("10.0", "10.3"),
    last=LastVersions(onnxruntime_gpu="1.27.0"),
    cards=(Card("b200", "NVIDIA B200", 180, 8000.0, 75.0, 2250.0, 4500.0, display=False),),
    sources=(
        "capability: developer.nvidia.com/cuda-gpus",
        "b200: github.com/everfir/gpu-database, src/data/nvidia.json: an eighth of NVIDIA's HGX B200",
        "onnxruntime-gpu: machine code read from the wheels themselves; 1.28 to 1.30 were not read",
    ),
)
