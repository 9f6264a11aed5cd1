"""Targets, one file each; a target is chosen by its name."""

from __future__ import annotations

import importlib
import pkgutil

from inference_pio.errors import BadInputError
from inference_pio.graphs.targets.target import Target


def supported() -> list[str]:
    """The names of the targets."""
    modules = (m.name for m in pkgutil.iter_modules(__path__) if m.name != "target")
    return sorted(name.replace("_", "-") for name in modules)


def find_target(name: str) -> Target:
    """The target called `name`; raises BadInputError that lists the names."""
    if name not in supported():
        raise BadInputError(f"target '{name}' is not known; known are {', '.join(supported())}")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").TARGET
