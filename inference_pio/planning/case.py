"""One card with one target and recipe: what a plan is made for."""

from __future__ import annotations

from dataclasses import dataclass

from inference_pio.calibration.recipes import Recipe
from inference_pio.export.plan import KV_CACHES, has_int8_cache
from inference_pio.graphs.hardware.hardware import Card, Hardware
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.graphs.targets import find_target
from inference_pio.graphs.targets.target import Target
from inference_pio.planning.rules import RULES, Rules


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

    @property
    def made_for(self) -> Target:
        """The target of its export."""
        return find_target(self.target, self.hardware.dialect_of(self.target))

    @property
    def rules(self) -> Rules:
        """How the target uses the machine."""
        return RULES[self.key]

    def caches(self, spec: DecoderSpec) -> tuple[str, ...]:
        """Storages of the model's cache, the usual one first: that of activations."""
        found = dict.fromkeys((KV_CACHES[self.recipe.compute], *self.rules.other_caches))
        return tuple(kind for kind in found if kind != "int8" or has_int8_cache(spec))


def key_of(hardware: Hardware, target: str) -> str:
    """The `Target.key` of `target` in the dialect of the hardware; raises BadInputError where it does not run."""
    dialect = hardware.dialect_of(target)
    return f"{target}/{dialect}" if dialect else target
