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
        Card("rtx-3070", "NVIDIA GeForce RTX 3070", 8, 448.0, 20.31, 81.3, 162.5),
        Card("rtx-3080", "NVIDIA GeForce RTX 3080", 10, 760.3, 29.77, 119.1, 238.1),
        Card("rtx-3090", "NVIDIA GeForce RTX 3090", 24, 936.2, 35.58, 142.3, 284.6),
        Card("a10", "NVIDIA A10", 22.5, 600.0, 31.2, 125.0, 250.0, display=False),
        Card("a40", "NVIDIA A40", 45, 696.0, 37.4, 149.7, 299.3, display=False),
    ),
    sources=(
        "capability: developer.nvidia.com/cuda-gpus",
        "rtx-3060: hmc-tech.com/gpu/nvidia-geforce-rtx-4080-vs-nvidia-geforce-rtx-3060-ga104, int8 a quarter and fp16 "
        "an eighth of its sparse int4; bandwidth in github.com/CYBIRD-D/How-to-Choose-your-LLM-Model-for-translation, "
        "Nvidia_GPU_Specification.md",
        "rtx-3070, rtx-3080, rtx-3090: TechPowerUp's records in github.com/reox007/RightNow-GPU-Database, "
        "data/nvidia/all.json",
        "a tensor core does 128 fused multiply-adds of fp16 per clock, half of them with sums in fp32: "
        "gist.github.com/getianao/33fb5306ba896193c7ae59ec64794283; twice as many of int8, as on the A40",
        "a10, a40: github.com/astroC86/gpu-datasheet, README.md; fp32 in github.com/winston-zhang-orz/gpu-specs, "
        "specs.md, and hmc-tech.com/gpu/nvidia-a100-vs-nvidia-a40; a10: memory as its driver shows it, "
        "github.com/VladislavDuma/gpu_specs, README.md",
    ),
)
