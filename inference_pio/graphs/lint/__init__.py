"""Linters: whether a runtime accepts an ONNX file, decided by its documented rules, without the runtime."""

from __future__ import annotations

import importlib

from inference_pio.errors import BadInputError
from inference_pio.graphs.lint.rule import Dialect

DIALECTS = {"trt85": "trt85", "modern": "modern", "ort-1.20.2": "ort_1_20_2"}
"""Names of dialects and the modules that hold their rules."""


def find_dialect(name: str) -> Dialect:
    """The dialect called `name`; raises BadInputError that lists the names."""
    if name not in DIALECTS:
        raise BadInputError(f"dialect '{name}' is not known: use {', '.join(DIALECTS)}")
    return importlib.import_module(f"{__name__}.{DIALECTS[name]}").DIALECT
