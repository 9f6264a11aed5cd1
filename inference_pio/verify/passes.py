"""Which passes over the text a verification makes, and how many rows of logits they leave on the disk."""

from __future__ import annotations

from dataclasses import dataclass

TWIN_POSITIONS = 1024
"""The simulation's twin only shows how fast rounding errors grow, for which so many positions suffice."""


@dataclass(frozen=True)
class Passes:
    """The artifact's pass is always made; the others as stated."""

    reference: bool
    simulation: bool
    twin: bool

    def rows(self, positions: int, window: int) -> int:
        """Rows of logits of all passes together."""
        whole = 1 + self.reference + self.simulation
        return whole * positions + (twin_positions(positions, window) if self.twin else 0)


ARTIFACT_ALONE = Passes(reference=False, simulation=False, twin=False)


def twin_positions(positions: int, window: int) -> int:
    """Positions of the twin: whole windows, at least one."""
    return min(positions, max(TWIN_POSITIONS // window, 1) * window)
