"""What a calibration hands to the lowering: weights that are already rounded, scales, columns kept exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

CodeReader = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
"""(first row, last row + 1) -> codes and float32 scales of these rows."""


@dataclass(frozen=True)
class CalibratedLinear:
    """One linear layer's weight [N, K] after calibration.

    `read` gives its rows in the layout of its format: int8 [rows, K] with scales [rows] for integer products, uint8
    [rows, blocks, bytes] with scales [rows, blocks] for blocks. `activation_scale` is the step of a static input.
    `exact_columns` are input channels that are multiplied in float32, with their weights `exact` float32
    [N, len(exact_columns)]; the codes of these channels are zero.
    """

    read: CodeReader = field(repr=False, compare=False)
    activation_scale: float | None = None
    exact_columns: tuple[int, ...] = ()
    exact: np.ndarray | None = field(default=None, repr=False, compare=False)


class CalibratedWeights(Protocol):
    """Calibrated linear layers by the name of their checkpoint tensor."""

    def linear(self, tensor: str) -> CalibratedLinear | None:
        """The calibrated weight, or None where plain rounding applies."""

    def activation_scale(self, tensor: str) -> float | None:
        """The step of a static input, also where the weight is rounded plainly; None without one."""
