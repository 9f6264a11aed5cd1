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
        Card("h100-pcie", "NVIDIA H100 PCIe", 80, 2039.0, 51.2, 756.0, 1513.0, display=False),
        Card("h100-sxm", "NVIDIA H100 80GB HBM3", 80, 3352.0, 66.9, 989.4, 1978.9, display=False),
        Card("h200", "NVIDIA H200", 141, 4800.0, 66.9, 989.4, 1978.9, display=False),
    ),
    sources=("NVIDIA H100 and H200 Tensor Core GPU data sheets; rates without sparsity",),
)
