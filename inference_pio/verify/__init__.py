"""Proves that an artifact still is the model that it was exported from, and fails loudly when it is not.

Importing this package loads neither torch nor the runtime; both wait until something is verified.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inference_pio.verify.costs import Estimate, estimate
    from inference_pio.verify.gates import Gate, load_gate
    from inference_pio.verify.options import VerifyOptions
    from inference_pio.verify.pipeline import verify
    from inference_pio.verify.report import Report

__all__ = ["Estimate", "Gate", "Report", "VerifyOptions", "estimate", "load_gate", "verify"]

_HOME = {
    "Estimate": "costs",
    "Gate": "gates",
    "Report": "report",
    "VerifyOptions": "options",
    "estimate": "costs",
    "load_gate": "gates",
    "verify": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
