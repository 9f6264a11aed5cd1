"""Ada: RTX 40 series, L4, L40S.

Rates of fp16 are those with sums in fp16; with sums in fp32 GeForce cards have half of them.
"""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Card, Hardware

HARDWARE = Hardware(
    name="sm89",
    title="Ada: RTX 40 series, L4, L40S",
    dialects=(("ort-cuda", "modern"), ("tensorrt", "modern")),
    dtypes=("fp32", "fp16", "bf16", "fp8", "int8"),
    int8="tensor cores",
    compute_capabilities=("8.9",),
    cards=(
        Card("rtx-4060", "NVIDIA GeForce RTX 4060", 8, 272.0, 15.1, 60.5, 121.0),
        Card("rtx-4060-ti-16gb", "NVIDIA GeForce RTX 4060 Ti", 16, 288.0, 22.1, 88.25, 176.5),
        Card("rtx-4070", "NVIDIA GeForce RTX 4070", 12, 504.0, 29.1, 116.5, 233.0),
        Card("rtx-4080", "NVIDIA GeForce RTX 4080", 16, 716.8, 48.7, 194.9, 389.9),
        Card("rtx-4090", "NVIDIA GeForce RTX 4090", 24, 1008.0, 82.6, 330.3, 660.6),
        Card("l4", "NVIDIA L4", 22.5, 300.0, 30.3, 121.0, 242.0, display=False),
        Card("l40s", "NVIDIA L40S", 45, 864.0, 91.6, 362.05, 733.0, display=False),
    ),
    sources=(
        "capability: developer.nvidia.com/cuda-gpus",
        "rtx-4060, rtx-4060-ti-16gb, rtx-4070, rtx-4080, rtx-4090, l4, l40s: github.com/everfir/gpu-database, "
        "src/data/nvidia.json, which names NVIDIA's page or white paper for each",
        "l4, l40s: memory as their driver shows it, github.com/VladislavDuma/gpu_specs, README.md",
    ),
)
