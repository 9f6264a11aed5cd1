"""Ampere for data centres: A100, A30."""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Hardware

HARDWARE = Hardware(
    name="sm80",
    dialects=(("ort-cuda", "modern"), ("tensorrt", "modern")),
    compute_capabilities=("8.0",),
)
