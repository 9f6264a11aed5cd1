"""Turing: RTX 20 and GTX 16 series, T4.

The GTX 16 series is of the same class without tensor cores: fp16 has twice the rate of fp32, int8 four times.
"""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Card, Hardware

HARDWARE = Hardware(
    name="sm75",
    title="Turing: RTX 20 and GTX 16 series, T4",
    dialects=(("ort-cuda", "modern"), ("tensorrt", "modern")),
    dtypes=("fp32", "fp16", "int8", "int4"),
    int8="tensor cores; on the GTX 16 series DP4A",
    compute_capabilities=("7.5",),
    cards=(
        Card("gtx-1650", "NVIDIA GeForce GTX 1650", 4, 128.1, 2.984, 5.968, 11.94),
        Card("gtx-1660-ti", "NVIDIA GeForce GTX 1660 Ti", 6, 288.0, 5.437, 10.87, 21.75),
        Card("rtx-2060", "NVIDIA GeForce RTX 2060", 6, 336.0, 6.451, 51.6, 103.2),
        Card("rtx-2070", "NVIDIA GeForce RTX 2070", 8, 448.0, 7.465, 59.7, 119.4),
        Card("rtx-2080", "NVIDIA GeForce RTX 2080", 8, 448.0, 10.07, 80.5, 161.1),
        Card("rtx-2080-ti", "NVIDIA GeForce RTX 2080 Ti", 11, 616.0, 13.45, 107.6, 215.2),
        Card("t4", "Tesla T4", 16, 320.0, 8.1, 65.0, 130.0, display=False),
    ),
    sources=(
        "NVIDIA Turing GPU Architecture (WP-09183-001), appendix; NVIDIA T4 data sheet",
        "TensorRT 10.15 and 11: compute capability 7.5 and newer, docs.nvidia.com/deeplearning/tensorrt/support-matrix",
    ),
)
