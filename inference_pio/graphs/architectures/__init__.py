"""One file per architecture, named like the checkpoint's `model_type`; the folder is the registry.

An architecture module has `read_config(ConfigReader) -> DecoderSpec` and `build(spec, WeightSource) -> ir.Model`.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from inference_pio.errors import BadInputError


def supported() -> list[str]:
    """The `model_type` values that can be exported."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find_architecture(model_type: object) -> ModuleType:
    """The module for `model_type`; raises BadInputError that names the supported ones."""
    if model_type not in supported():
        raise BadInputError(
            f"config.json: model_type {model_type!r} is not supported; supported are {', '.join(supported())}"
        )
    return importlib.import_module(f"{__name__}.{model_type}")
