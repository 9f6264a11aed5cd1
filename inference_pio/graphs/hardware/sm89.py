"""Ada: RTX 40 series, L4, L40S.

Rates of fp16 are those with sums in fp16; with sums in fp32 GeForce cards have half of them.
"""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Card, Hardware

HARDWARE = Hardware(
    name="sm89",
    title="Ada: RTX 40 series, L4, L40S",
    dialects=(("ort-cuda", "modern"), ("tensorrt", "modern")),
    dtypes=("fp32", "fp16", "bf16", "fp8", "int8"),
    int8="tensor cores",
    compute_capabilities=("8.9",),
    cards=(
        Card("rtx-4060", "NVIDIA GeForce RTX 4060", 8, 272.0, 15.11, 60.5, 121.0),
        Card("rtx-4060-ti-16gb", "NVIDIA GeForce RTX 4060 Ti", 16, 288.0, 22.06, 88.2, 176.5),
        Card("rtx-4070", "NVIDIA GeForce RTX 4070", 12, 504.2, 29.15, 116.6, 233.2),
        Card("rtx-4080", "NVIDIA GeForce RTX 4080", 16, 716.8, 48.74, 194.9, 389.9),
        Card("rtx-4090", "NVIDIA GeForce RTX 4090", 24, 1008.0, 82.58, 330.3, 660.6),
        Card("l4", "NVIDIA L4", 24, 300.0, 30.3, 121.0, 242.5, display=False),
        Card("l40s", "NVIDIA L40S", 48, 864.0, 91.6, 362.0, 733.0, display=False),
    ),
    sources=("NVIDIA Ada GPU Architecture, appendix A; NVIDIA L4 and L40S data sheets; rates without sparsity",),
)
