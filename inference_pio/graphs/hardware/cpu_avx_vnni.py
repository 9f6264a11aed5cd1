"""x86-64 with AVX-VNNI: Intel Core of 2021 and later."""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Card, Hardware

HARDWARE = Hardware(
    name="cpu-avx-vnni",
    title="x86-64 with AVX-VNNI: Intel Core of 2021 and later",
    dialects=(("ort-cpu", ""),),
    dtypes=("fp32", "int8"),
    int8="VNNI: four products added into 32 bits, four times the rate of fp32",
    cpu_classes=("avx-vnni", "avx512-vnni"),
    cards=(Card("i5-12400", "12th Gen Intel(R) Core(TM) i5-12400", 0, 76.8, 0.845, 0, 3.379),),
    sources=("makers' data sheets; fp32 is cores x fused multiply-adds per cycle x highest clock",),
)
