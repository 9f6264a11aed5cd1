"""What an artifact carries of its calibration: fingerprints of text and images, and errors per layer for the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.jsonfile import read_json_object
from inference_pio.calibration.examples import Example, pixel_digest
from inference_pio.calibration.fingerprint import MATERIAL, TextFingerprint
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


def refuse_calibrated_examples(artifact: Artifact, examples: Sequence[Example]) -> None:
    """As `refuse_calibrated`, for examples: by the pixels of their images, by their text where they show none."""
    known = set(_images(calibration_of(artifact), artifact))
    shown = {pixel_digest(file) for example in examples for file in example.files} if known else set()
    both = len(known & shown)
    if both > MATERIAL * min(len(known), len(shown)):
        raise BadInputError(f"{artifact.path} was calibrated on {both} of the {len(shown)} images: verify on others")
    refuse_calibrated(artifact, "\n".join(f"{e.prompt}\n{e.answer}" for e in examples if not e.files))


def _images(facts: dict[str, Any] | None, artifact: Artifact) -> list[str]:
    """Digests of the images that were calibrated on; raises BadInputError for anything else in their place."""
    found = [] if facts is None else facts.get("images", [])
    if not isinstance(found, list) or not all(isinstance(digest, str) for digest in found):
        raise BadInputError(f"{artifact.path}/{FACTS} is damaged: export the artifact again")
    return found


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
