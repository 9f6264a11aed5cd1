"""Ampere for data centres: A100, A30."""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Card, Hardware

HARDWARE = Hardware(
    name="sm80",
    title="Ampere for data centres: A100, A30",
    dialects=(("ort-cuda", "modern"), ("tensorrt", "modern")),
    dtypes=("fp32", "fp16", "bf16", "int8", "int4"),
    int8="tensor cores",
    compute_capabilities=("8.0",),
    cards=(
        Card("a30", "NVIDIA A30", 24, 933.0, 10.3, 165.0, 330.0, display=False),
        Card("a100-40gb", "NVIDIA A100-SXM4-40GB", 40, 1555.0, 19.5, 312.0, 624.0, display=False),
        Card("a100-80gb", "NVIDIA A100-SXM4-80GB", 80, 2039.0, 19.5, 312.0, 624.0, display=False),
    ),
    sources=("NVIDIA A100 Tensor Core GPU data sheet; NVIDIA A30 data sheet; rates without sparsity",),
)
