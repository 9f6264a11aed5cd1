"""Hardware profiles, one file each: frozen facts about where an artifact will run."""

from __future__ import annotations

import importlib
import pkgutil

from inference_pio.errors import BadInputError
from inference_pio.graphs.hardware.hardware import Hardware
from inference_pio.machine.gpus import Gpu, find_gpus

AUTO = "auto"
"""In place of a name: what this machine is."""


def supported() -> list[str]:
    """The names of the profiles."""
    modules = (m.name for m in pkgutil.iter_modules(__path__) if m.name != "hardware")
    return sorted(name.replace("_", "-") for name in modules)


def profiles() -> list[Hardware]:
    """All profiles, by name."""
    return [importlib.import_module(f"{__name__}.{name.replace('-', '_')}").HARDWARE for name in supported()]


def find_hardware(name: str, target: str) -> Hardware:
    """The profile called `name` or that of the card called so; for `auto` that of this machine's GPU, or of any CPU.

    Raises BadInputError for an unknown name, a pair that does not fit, and for `auto` where this machine does not tell.
    """
    if name == AUTO:
        return _own(target)
    for profile in profiles():
        if name == profile.name or profile.card(name) is not None:
            profile.dialect_of(target)
            return profile
    raise BadInputError(f"hardware '{name}' is not known: use auto or {', '.join(supported())}")


def profile_of(gpu: Gpu) -> Hardware | None:
    """The profile of a detected GPU, None for one that no profile is of."""
    return next((p for p in profiles() if gpu.compute_capability in p.compute_capabilities), None)


def _own(target: str) -> Hardware:
    """The profile of this machine among those that `target` runs on; for a CPU the one of all classes."""
    fitting = [profile for profile in profiles() if target in profile.targets]
    for profile in fitting:
        if not profile.is_gpu and "any" in profile.cpu_classes:
            return profile
    names = ", ".join(profile.name for profile in fitting)
    gpus = find_gpus()
    if not gpus:
        raise BadInputError(f"target {target} needs a GPU and none was found here: name one with --hardware {names}")
    own = profile_of(gpus[0])
    if own is None or own not in fitting:
        raise BadInputError(
            f"target {target} does not run on {gpus[0].name} (compute capability {gpus[0].compute_capability}): for "
            f"another machine name its hardware with --hardware {names}"
        )
    return own
