"""Ampere: RTX 30 series, A10, A40.

Rates of fp16 are those with sums in fp16; with sums in fp32 GeForce cards have half of them.
"""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Card, Hardware

HARDWARE = Hardware(
    name="sm86",
    title="Ampere: RTX 30 series, A10, A40",
    dialects=(("ort-cuda", "modern"), ("tensorrt", "modern")),
    dtypes=("fp32", "fp16", "bf16", "int8", "int4"),
    int8="tensor cores",
    compute_capabilities=("8.6",),
    cards=(
        Card("rtx-3060", "NVIDIA GeForce RTX 3060", 12, 360.0, 12.74, 51.0, 101.9),
        Card("rtx-3070", "NVIDIA GeForce RTX 3070", 8, 448.0, 20.31, 81.3, 162.6),
        Card("rtx-3080", "NVIDIA GeForce RTX 3080", 10, 760.3, 29.77, 119.0, 238.0),
        Card("rtx-3090", "NVIDIA GeForce RTX 3090", 24, 936.2, 35.58, 142.0, 284.0),
        Card("a10", "NVIDIA A10", 24, 600.0, 31.2, 125.0, 250.0, display=False),
        Card("a40", "NVIDIA A40", 48, 696.0, 37.4, 149.7, 299.3, display=False),
    ),
    sources=(
        "NVIDIA Ampere GA102 GPU Architecture, appendix A; NVIDIA A10 and A40 data sheets; rates without sparsity",
    ),
)
