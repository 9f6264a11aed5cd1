"""What a caller may ask of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inference_pio.calibration.options import CalibrationOptions


@dataclass(frozen=True)
class ExportOptions:
    """Options of `export`.

    `precision` is a recipe's name or file; `block_size`, `context_length` and `layers` default to what the recipe and
    the checkpoint say; a `kv_cache` "auto" has the type of activations; `max_memory` is in bytes; `threads` None uses
    every core. `ignore_config_keys` are entries of config.json that the caller vouches for. `keep_failed` keeps an
    artifact whose verification failed, marked so. `block_layers` is for targets that cut a decoder into blocks: layers
    in each, by default as many as an 8 GB host can build.

    `calibration` is "default", a text file, or the folder of a finished calibration; the other three are for a text:
    how many samples of how many tokens, and the steps to leave out (see `calibration.options.Switches`).
    """

    target: str = "ort-cpu"
    hardware: str = "auto"
    precision: str = "int8"
    kv_cache: str = "auto"
    block_size: int | None = None
    context_length: int | None = None
    layers: int | None = None
    max_memory: int | None = None
    threads: int | None = None
    force: bool = False
    keep_failed: bool = False
    ignore_config_keys: tuple[str, ...] = ()
    block_layers: int | None = None
    calibration: str | Path | None = None
    calibration_samples: int = CalibrationOptions.samples
    calibration_length: int = CalibrationOptions.length
    calibration_without: tuple[str, ...] = ()
