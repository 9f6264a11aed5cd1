"""What a hardware profile says."""

from __future__ import annotations

from dataclasses import dataclass

from inference_pio.errors import BadInputError


@dataclass(frozen=True)
class Hardware:
    """A class of machines that run the same artifacts.

    `dialects` are (target, dialect): the targets that run on it and the form of each that it understands, "" where a
    target has one form. `cpu_classes` are those that an artifact for it is valid on ("any" for all of them).
    `compute_capabilities` are those of its GPUs, none for a CPU.
    """

    name: str
    dialects: tuple[tuple[str, str], ...]
    cpu_classes: tuple[str, ...] = ("any",)
    compute_capabilities: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that run on it."""
        return tuple(target for target, _ in self.dialects)

    def dialect_of(self, target: str) -> str:
        """The form of `target` that it understands; raises BadInputError for a target that does not run on it."""
        for known, dialect in self.dialects:
            if known == target:
                return dialect
        raise BadInputError(f"target {target} does not run on {self.name}: use {', '.join(self.targets)}")
