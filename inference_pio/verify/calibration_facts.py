"""What an artifact carries of its calibration: the text's fingerprint, and errors per layer for the report."""

from __future__ import annotations

from typing import Any

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.jsonfile import read_json_object
from inference_pio.calibration.fingerprint import TextFingerprint
from inference_pio.calibration.result import FACTS
from inference_pio.errors import BadInputError


def calibration_of(artifact: Artifact) -> dict[str, Any] | None:
    """The artifact's `calibration.json`; None where it was not calibrated."""
    return read_json_object(artifact.file(FACTS)) if FACTS in artifact.manifest.files else None


def refuse_calibrated(artifact: Artifact, text: str) -> None:
    """Raise BadInputError for text that the artifact was calibrated on: it would flatter the rounding."""
    facts = calibration_of(artifact)
    if facts is not None and TextFingerprint.from_json(facts.get("fingerprint")).overlaps(text):
        raise BadInputError(
            f"{artifact.path} was calibrated on the verification text or a part of it: verify on another text"
        )


def calibration_facts(artifact: Artifact) -> dict[str, Any] | None:
    """For the report: text, layers' errors, the worst linear layers, exceptions; None without rounded layers.

    `layer_errors` and `error` are squared errors as a share of the squared output; `plain_error` is what rounding to
    nearest would leave. Raises BadInputError for a file that a calibration cannot have written.
    """
    facts = calibration_of(artifact)
    if facts is None or not facts.get("linears"):
        return None
    try:
        by_name = {linear["tensor"]: linear for linear in facts["linears"]}
        keys = ("tensor", "error", "plain_error", "smoothing", "exact_columns")
        return {
            "text": facts["text"]["name"],
            "layer_errors": [float(error) for error in facts["layer_errors"]],
            "worst": [{key: by_name[name][key] for key in keys} for name in facts["worst"]],
            "exceptions": list(facts["exceptions"]),
            "suggested_exceptions": list(facts["suggested_exceptions"]),
            "bought": dict(facts["bought"]),
        }
    except (KeyError, TypeError, ValueError):
        raise BadInputError(f"{artifact.path}/{FACTS} is damaged: export the artifact again") from None
