"""Hopper: H100, H200."""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Hardware

HARDWARE = Hardware(
    name="sm90",
    dialects=(("ort-cuda", "modern"), ("tensorrt", "modern")),
    compute_capabilities=("9.0",),
)
