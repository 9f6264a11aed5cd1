"""Blackwell: RTX 50 series, RTX PRO 6000."""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Hardware

HARDWARE = Hardware(
    name="sm120",
    dialects=(("ort-cuda", "modern"), ("tensorrt", "modern")),
    compute_capabilities=("12.0", "12.1"),
)
