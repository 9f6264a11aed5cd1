"""Blackwell: RTX 50 series, RTX PRO 6000.

Rates of fp16 are those with sums in fp16; with sums in fp32 GeForce cards have half of them.
"""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Card, Hardware

HARDWARE = Hardware(
    name="sm120",
    title="Blackwell: RTX 50 series, RTX PRO 6000",
    dialects=(("ort-cuda", "modern"), ("tensorrt", "modern")),
    dtypes=("fp32", "fp16", "bf16", "fp8", "fp4", "int8"),
    int8="tensor cores",
    compute_capabilities=("12.0", "12.1"),
    cards=(
        Card("rtx-5060-ti-16gb", "NVIDIA GeForce RTX 5060 Ti", 16, 448.0, 23.7, 94.88, 189.75),
        Card("rtx-5070", "NVIDIA GeForce RTX 5070", 12, 672.0, 30.9, 123.5, 246.9),
        Card("rtx-5070-ti", "NVIDIA GeForce RTX 5070 Ti", 16, 896.0, 43.9, 175.8, 351.5),
        Card("rtx-5080", "NVIDIA GeForce RTX 5080", 16, 960.0, 56.3, 225.1, 450.2),
        Card("rtx-5090", "NVIDIA GeForce RTX 5090", 32, 1792.0, 104.8, 419.0, 838.0),
        Card("rtx-pro-6000", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 96, 1792.0, 126.0, 500.0, 1000.0),
    ),
    sources=(
        "capability: developer.nvidia.com/cuda-gpus",
        "rtx-5060-ti-16gb, rtx-5070, rtx-5070-ti, rtx-5080, rtx-5090, rtx-pro-6000: github.com/everfir/gpu-database, "
        "src/data/nvidia.json, which names NVIDIA's page or white paper for each; int8 of rtx-5060-ti-16gb and "
        "rtx-pro-6000 is a quarter of NVIDIA's sparse fp4",
    ),
)
