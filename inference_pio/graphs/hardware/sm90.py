"""Hopper: H100, H200."""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Card, Hardware

HARDWARE = Hardware(
    name="sm90",
    title="Hopper: H100, H200",
    dialects=(("ort-cuda", "modern"), ("tensorrt", "modern")),
    dtypes=("fp32", "fp16", "bf16", "fp8", "int8"),
    int8="tensor cores",
    compute_capabilities=("9.0",),
    cards=(
        Card("h100-pcie", "NVIDIA H100 PCIe", 80, 2000.0, 51.2, 756.0, 1513.0, display=False),
        Card("h100-sxm", "NVIDIA H100 80GB HBM3", 80, 3350.0, 67.0, 989.5, 1979.0, display=False),
        Card("h200", "NVIDIA H200", 141, 4800.0, 67.0, 989.5, 1979.0, display=False),
    ),
    sources=(
        "capability: developer.nvidia.com/cuda-gpus",
        "h100-pcie: github.com/VladislavDuma/gpu_specs, README.md",
        "h100-sxm, h200: github.com/everfir/gpu-database, src/data/nvidia.json, which names NVIDIA's page for each",
    ),
)
