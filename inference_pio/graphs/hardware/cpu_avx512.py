"""x86-64 with AVX-512 and no VNNI: Skylake-X, Skylake-SP."""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Hardware

HARDWARE = Hardware(
    name="cpu-avx512",
    title="x86-64 with AVX-512 and no VNNI: Skylake-X, Skylake-SP",
    dialects=(("ort-cpu", ""),),
    dtypes=("fp32", "int8"),
    int8="as AVX2, twice as wide",
    cpu_classes=("avx512", "avx512-vnni"),
    cards=(),
    sources=(),
)
