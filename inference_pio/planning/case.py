"""One card with one target and recipe: what a plan is made for."""

from __future__ import annotations

from dataclasses import dataclass

from inference_pio.calibration.recipes import Recipe
from inference_pio.graphs.hardware.hardware import Card, Hardware


@dataclass(frozen=True)
class Case:
    """One card with one target and recipe."""

    hardware: Hardware
    card: Card
    host: Card
    target: str
    recipe: Recipe

    @property
    def key(self) -> str:
        """The `Target.key` that it comes down to."""
        return key_of(self.hardware, self.target)


def key_of(hardware: Hardware, target: str) -> str:
    """The `Target.key` of `target` in the dialect of the hardware; raises BadInputError where it does not run."""
    dialect = hardware.dialect_of(target)
    return f"{target}/{dialect}" if dialect else target
