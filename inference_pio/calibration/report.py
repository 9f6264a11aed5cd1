"""What a calibration says about itself: errors per layer and per linear layer, the worst, suggested exceptions."""

from __future__ import annotations

from typing import Any

from inference_pio.graphs.formats import whole_of

WORST = 10
SUGGESTED_ABOVE = 0.003
"""Squared error as a share of the squared output from which an exception is suggested."""


def summary(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """The parts of `calibration.json` that are made of the layers' facts.

    `error` and `plain_error` are squared errors of a linear layer's output as a share of the squared output, with all
    steps and with plain rounding; `output_error` the same for what a whole layer adds to the residual stream. `experts`
    says how many tokens each expert saw, by layer; those that saw none were rounded to nearest.
    """
    linears = [{"layer": layer["layer"], **linear} for layer in layers for linear in layer["linears"]]
    used = [linear for linear in linears if not linear["kept_in_float32"]]
    worst = sorted(used, key=lambda linear: -linear["error"])[:WORST]
    suggested = [whole_of(linear["tensor"]) for linear in worst if linear["error"] > SUGGESTED_ABOVE]
    tokens = {layer["layer"]: layer["expert_tokens"] for layer in layers if "expert_tokens" in layer}
    return {
        "layer_errors": [layer["output_error"] for layer in layers],
        "linears": linears,
        "worst": [linear["tensor"] for linear in worst],
        "suggested_exceptions": list(dict.fromkeys(suggested)),
        "bought": {
            "mean_plain_error": _mean([linear["plain_error"] for linear in linears]),
            "mean_error": _mean([linear["error"] for linear in used]),
            "smoothed": sum(linear["smoothing"] is not None for linear in used),
            "with_exact_columns": sum(linear["exact_columns"] > 0 for linear in used),
            "kept_in_float32": len(linears) - len(used),
        },
        "experts": {
            "tokens": tokens,
            "unseen": [[layer, expert] for layer, seen in tokens.items() for expert, n in enumerate(seen) if not n],
        },
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
