"""Turing: RTX 20 and GTX 16 series, T4."""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Hardware

HARDWARE = Hardware(
    name="sm75",
    dialects=(("ort-cuda", "modern"), ("tensorrt", "modern")),
    compute_capabilities=("7.5",),
)
