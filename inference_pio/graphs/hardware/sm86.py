"""Ampere: RTX 30 series, A10, A40."""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Hardware

HARDWARE = Hardware(
    name="sm86",
    dialects=(("ort-cuda", "modern"), ("tensorrt", "modern")),
    compute_capabilities=("8.6",),
)
