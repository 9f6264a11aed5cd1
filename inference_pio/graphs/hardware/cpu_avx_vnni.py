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
    sources=(
        "i5-12400: 6 cores, 4.4 GHz, two channels of DDR5-4800, 76.8 GB/s in grokipedia.com/page/Intel_Core_i5-12400",
        "two fused multiply-adds of eight numbers per cycle, as Intel's cores since Haswell: "
        "stackoverflow.com/questions/15655835",
    ),
)
