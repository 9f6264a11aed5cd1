"""Artifacts for TensorRT 8.5, exported once and run as a chain of blocks on ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.runtime import Engine, EngineConfig

FEW: dict[str, Any] = {
    "calibration": "default",
    "calibration_samples": 8,
    "calibration_length": 128,
    "calibration_without": ("smoothing", "clipping", "exact_columns", "exceptions"),
}
"""Tiny models need none of the steps that take time."""
LEAST: dict[str, Any] = {
    **FEW,
    "calibration": Path(__file__),
    "calibration_samples": 2,
    "calibration_length": 16,
}
"""For what does not depend on how good the steps are: the bundled text takes a moment to read."""
TRT85: dict[str, Any] = {"target": "tensorrt", "hardware": "sm61", "threads": 1}


def export_blocks(checkpoint: Path, out: Path, precision: str = "fp32", **more: Any) -> Path:
    """Export to the dialect trt85."""
    export(checkpoint, out, ExportOptions(precision=precision, **{**TRT85, **more}))
    return out


def open_chain(path: Path, **more: Any) -> Engine:
    """The artifact block by block on the CPU."""
    return Engine.open(path, EngineConfig(backend="chain", threads=1, **more))
