"""Pascal: GTX 10 series, P4, P40, MX150 to MX350."""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Hardware

HARDWARE = Hardware(
    name="sm61",
    dialects=(("ort-cuda", "sm61"), ("tensorrt", "trt85")),
    compute_capabilities=("6.1",),
)
