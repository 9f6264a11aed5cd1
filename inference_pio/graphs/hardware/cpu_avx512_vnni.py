"""x86-64 with AVX-512 VNNI: Cascade Lake and later Xeons, Zen 4 and later."""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Card, Hardware

HARDWARE = Hardware(
    name="cpu-avx512-vnni",
    title="x86-64 with AVX-512 VNNI: Cascade Lake and later Xeons, Zen 4 and later",
    dialects=(("ort-cpu", ""),),
    dtypes=("fp32", "int8"),
    int8="VNNI: four products added into 32 bits, four times the rate of fp32",
    cpu_classes=("avx512-vnni",),
    cards=(Card("ryzen-9-7950x", "AMD Ryzen 9 7950X 16-Core Processor", 0, 83.2, 2.918, 0, 11.67),),
    sources=("makers' data sheets; fp32 is cores x fused multiply-adds per cycle x highest clock",),
)
