"""x86-64 with AVX2 and no VNNI: most laptops and desktops of 2013 to 2020."""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Card, Hardware

HARDWARE = Hardware(
    name="cpu-avx2",
    title="x86-64 with AVX2 and no VNNI: most laptops and desktops of 2013 to 2020",
    dialects=(("ort-cpu", ""),),
    dtypes=("fp32", "int8"),
    int8="pairs of products in 16 bits, twice the rate of fp32; u8 x s8 saturates there, so exact kernels are chosen",
    cpu_classes=("avx2", "avx512", "avx-vnni", "avx512-vnni"),
    cards=(
        Card("i5-10210u", "Intel(R) Core(TM) i5-10210U CPU @ 1.60GHz", 0, 42.7, 0.538, 0, 1.075),
        Card("ryzen-5-5600x", "AMD Ryzen 5 5600X 6-Core Processor", 0, 51.2, 0.883, 0, 1.766),
    ),
    sources=("makers' data sheets; fp32 is cores x fused multiply-adds per cycle x highest clock",),
)
