"""What an export tells the person who waits for it."""

from __future__ import annotations

from typing import Protocol

from inference_pio.export.plan import Estimate


class ExportProgress(Protocol):
    """Receives the estimate, then the bytes written so far, then the end."""

    def start(self, needed: Estimate) -> None:
        """Called once before anything is written."""

    def advance(self, written: int) -> None:
        """Called with the bytes just written."""

    def finish(self) -> None:
        """Called when all files but the manifest are written."""


class SilentProgress:
    """Tells nobody."""

    def start(self, needed: Estimate) -> None:
        """Nothing."""

    def advance(self, written: int) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""
