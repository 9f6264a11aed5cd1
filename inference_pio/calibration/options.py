"""What a caller may ask of a calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inference_pio.calibration.observers import ObserverKind
from inference_pio.errors import BadInputError

Progress = Callable[[str, int, int], None]
"""(phase, work done, all work). Phases: "expected memory" tells bytes before the work begins, "bundled text" that the
bundled corpus is run, "images" counts blocks of the vision tower, "resumed" how many layers were done already, "layers"
counts samples through layers."""


@dataclass(frozen=True)
class Switches:
    """Each step of a calibration by itself, so that its effect can be measured.

    `smoothing` moves magnitude from activations into weights, `clipping` searches a smaller range for weights,
    `second_order` rounds weights so that later columns make up for earlier ones (4-bit recipes), `exact_columns` keeps
    channels with massive activations in float32, `exceptions` keeps whole layers in float32 that integers would break.
    """

    smoothing: bool = True
    clipping: bool = True
    second_order: bool = True
    exact_columns: bool = True
    exceptions: bool = True

    def without(self, names: tuple[str, ...]) -> Switches:
        """These switches with some turned off; raises BadInputError for a name that is none."""
        known = asdict(self)
        for name in names:
            if name not in known:
                raise BadInputError(f"'{name}' is no step of a calibration: use {', '.join(known)}")
        return Switches(**{**known, **dict.fromkeys(names, False)})


@dataclass(frozen=True)
class CalibrationOptions:
    """Options of `calibrate`.

    `text` is "default" or a file (plain text, or JSONL with texts, chat messages or examples with images), of which
    `samples` windows of `length` tokens are run. `observer` chooses static activation scales; None takes the one with
    the least error.
    `threads` None uses every core; `max_memory` is in bytes. `layers` and `ignore_config_keys` as for an export.
    """

    precision: str = "w8a8"
    target: str = "ort-cpu"
    hardware: str = "auto"
    text: str | Path = "default"
    samples: int = 64
    length: int = 512
    observer: ObserverKind | None = None
    switches: Switches = Switches()
    block_size: int | None = None
    layers: int | None = None
    max_memory: int | None = None
    threads: int | None = None
    ignore_config_keys: tuple[str, ...] = ()

    def decisive(self) -> dict[str, Any]:
        """What the result depends on, for telling whether an interrupted run may go on."""
        return {
            "precision": self.precision,
            "samples": self.samples,
            "length": self.length,
            "observer": None if self.observer is None else self.observer.value,
            "switches": asdict(self.switches),
            "block_size": self.block_size,
            "layers": self.layers,
        }
