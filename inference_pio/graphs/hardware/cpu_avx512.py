"""x86-64 with AVX-512 and no VNNI: Skylake-X, Skylake-SP."""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Card, Hardware

HARDWARE = Hardware(
    name="cpu-avx512",
    title="x86-64 with AVX-512 and no VNNI: Skylake-X, Skylake-SP",
    dialects=(("ort-cpu", ""),),
    dtypes=("fp32", "int8"),
    int8="as AVX2, twice as wide",
    cpu_classes=("avx512", "avx512-vnni"),
    cards=(
        Card("xeon-gold-6130", "Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz", 0, 128.0, 3.789, 0, 7.578, display=False),
    ),
    sources=("makers' data sheets; fp32 is cores x fused multiply-adds per cycle x highest clock",),
)
