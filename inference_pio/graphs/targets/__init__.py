"""Targets, one file each with one target per dialect; a target is chosen by its name and what the hardware says."""

from __future__ import annotations

import importlib
import pkgutil

from inference_pio.errors import BadInputError
from inference_pio.graphs.hardware import find_hardware
from inference_pio.graphs.hardware.hardware import Hardware
from inference_pio.graphs.targets.target import Target


def supported() -> list[str]:
    """The names of the targets."""
    modules = (m.name for m in pkgutil.iter_modules(__path__) if m.name != "target")
    return sorted(name.replace("_", "-") for name in modules)


def find_target(name: str, dialect: str = "") -> Target:
    """The target called `name` in a dialect; raises BadInputError that lists the names or the dialects."""
    _check_name(name)
    targets: tuple[Target, ...] = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").TARGETS
    for target in targets:
        if target.dialect == dialect:
            return target
    known = ", ".join(target.dialect for target in targets)
    raise BadInputError(f"target {name} has no dialect '{dialect}'; it has {known}: choose other hardware")


def find_pair(target: str, hardware: str) -> tuple[Target, Hardware]:
    """A target by name, in the dialect that the hardware of that name (or `auto`) understands.

    Raises BadInputError for unknown names and for a pair that does not fit.
    """
    _check_name(target)
    found = find_hardware(hardware, target)
    return find_target(target, found.dialect_of(target)), found


def _check_name(name: str) -> None:
    if name not in supported():
        raise BadInputError(f"target '{name}' is not known; known are {', '.join(supported())}")
