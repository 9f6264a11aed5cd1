"""Hardware profiles, one file each: frozen facts about where an artifact will run."""

from __future__ import annotations

import importlib
import pkgutil

from inference_pio.errors import BadInputError
from inference_pio.graphs.hardware.hardware import Hardware


def supported() -> list[str]:
    """The names of the profiles."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "hardware")


def find_hardware(name: str, target: str) -> Hardware:
    """The profile called `name`, or the target's own for `auto`; raises BadInputError when the pair does not fit."""
    profiles = [importlib.import_module(f"{__name__}.{known}").HARDWARE for known in supported()]
    for profile in profiles:
        if name == profile.name or (name == "auto" and target in profile.targets):
            if target not in profile.targets:
                raise BadInputError(f"target {target} does not run on {name}: use {', '.join(profile.targets)}")
            return profile
    raise BadInputError(f"hardware '{name}' is not known: use auto or {', '.join(supported())}")
