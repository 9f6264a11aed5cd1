"""What an export tells the person who waits for it."""

from __future__ import annotations

from typing import Protocol

from inference_pio.export.plan import Estimate


class ExportProgress(Protocol):
    """Receives the estimate, then the bytes written so far, then the end."""

    def calibration(self, phase: str, done: int, total: int) -> None:
        """Called while a text is calibrated on, before `start`; see `calibration.options.Progress`."""

    def start(self, needed: Estimate) -> None:
        """Called once before anything is written."""

    def advance(self, written: int) -> None:
        """Called with the bytes just written."""

    def finish(self) -> None:
        """Called when all files but the manifest are written."""


class SilentProgress:
    """Tells nobody."""

    def calibration(self, phase: str, done: int, total: int) -> None:
        """Nothing."""

    def start(self, needed: Estimate) -> None:
        """Nothing."""

    def advance(self, written: int) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""
