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
        Card("a30", "NVIDIA A30", 24, 933.1, 10.32, 165.2, 330.3, display=False),
        Card("a100-40gb", "NVIDIA A100-SXM4-40GB", 40, 1555.0, 19.5, 312.0, 624.0, display=False),
        Card("a100-80gb", "NVIDIA A100-SXM4-80GB", 80, 2039.0, 19.5, 312.0, 624.0, display=False),
    ),
    sources=(
        "capability: cnblogs.com/nightnine/p/16591404.html",
        "a100-40gb, a100-80gb: github.com/winston-zhang-orz/gpu-specs, specs.md; "
        "glennklockwood.com/garden/processors/A100",
        "a30: TechPowerUp's record in github.com/reox007/RightNow-GPU-Database, data/nvidia/all.json; 224 tensor cores "
        "with 256 fused multiply-adds of fp16 per clock, scientiafr.com/Ampere_(microarchitecture), twice as many of "
        "int8 as on the A100",
    ),
)
