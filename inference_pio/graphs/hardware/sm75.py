"""Turing: RTX 20 and GTX 16 series, T4.

The GTX 16 series is of the same class without tensor cores; none of it is here, as no figure for its int8 was found.
Rates of fp16 are those with sums in fp16; with sums in fp32 GeForce cards have half of them.
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
        Card("rtx-2060", "NVIDIA GeForce RTX 2060", 6, 336.0, 6.451, 51.6, 103.2),
        Card("rtx-2070", "NVIDIA GeForce RTX 2070", 8, 448.0, 7.465, 59.7, 119.4),
        Card("rtx-2080", "NVIDIA GeForce RTX 2080", 8, 448.0, 10.07, 80.5, 161.1),
        Card("rtx-2080-ti", "NVIDIA GeForce RTX 2080 Ti", 11, 616.0, 13.45, 107.6, 215.2),
        Card("t4", "Tesla T4", 15, 320.0, 8.1, 65.0, 130.0, display=False),
    ),
    sources=(
        "capability: cnblogs.com/nightnine/p/16591404.html (T4), TechPowerUp's records (RTX)",
        "rtx-2060 (its TU104 variant), rtx-2070, rtx-2080, rtx-2080-ti: TechPowerUp's records in "
        "github.com/reox007/RightNow-GPU-Database, data/nvidia/all.json",
        "a tensor core does 64 fused multiply-adds of fp16 per clock and 128 of int8: NVIDIA's white paper in "
        "blog.csdn.net/royalfizz/article/details/93308651",
        "TensorRT: 10.5 and later have nothing older than 7.5, "
        "docs.nvidia.com/deeplearning/tensorrt/latest/getting-started/release-notes-10/10.5.0.html",
        "half the rate with sums in fp32: github.com/nlzy/turing-unlock/wiki",
        "t4: rates in github.com/winston-zhang-orz/gpu-specs, specs.md (which has 300 GB/s); 320 GB/s of 256 bits at "
        "10 Gbit/s in sysrqmts.com/pt/gpus/compare/nvidia-geforce-rtx-3050-8-gb-vs-nvidia-tesla-t4",
    ),
)
