"""The graphs that an artifact is made of."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Part:
    """One graph: its role and file in the artifact, and the layers whose attention (or experts) it holds.

    `requires` names packages and their minimum versions besides those of the target.
    """

    role: str
    file: str
    model: ir.Model
    layers: tuple[int, ...] = ()
    requires: tuple[tuple[str, str], ...] = ()

    @property
    def weights_file(self) -> str:
        """The file of its weights."""
        return f"{self.file}.data"
