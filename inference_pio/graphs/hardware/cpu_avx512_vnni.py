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
    sources=(
        "ryzen-9-7950x: 16 cores, 5.7 GHz and DDR5-5200 in "
        "web-autoai.com/articles/amd-ryzen-9-7950x-16-core-32-thread-high-end-cpu; two channels as its successor has "
        "in the same socket, timdobbs.substack.com/p/the-amd-ryzen-9-9950x-cpu",
        "Zen 4 computes 512 bits in two steps with Zen 3's units: numberworld.org/blogs/2024_8_7_zen5_avx512_teardown; "
        "two fused multiply-adds of eight numbers per cycle: wlog.flatlib.jp/2024/01/13/ryzen-zen3-vfpbench",
    ),
)
