"""Where the artifact of a plugin is: an explicit path, else the environment's folder, else `artifacts/`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from inference_pio.artifact.manifest import Manifest
from inference_pio.artifact.manifest_reader import read_manifest
from inference_pio.errors import BadInputError
from inference_pio.models.card import ModelCard

VARIABLE = "INFERENCE_PIO_ARTIFACTS"
"""Names a folder that holds artifacts under the names of their plugins."""


class MissingArtifactError(BadInputError):
    """There is no artifact in any of the places."""


@dataclass(frozen=True)
class FoundArtifact:
    """An artifact of the right model, and its manifest; its files are checked when an engine opens it."""

    path: Path
    manifest: Manifest


def find_artifact(card: ModelCard, explicit: Path | None = None) -> FoundArtifact:
    """The first artifact there is; an `explicit` path is the only place looked at.

    Raises MissingArtifactError when there is none, naming the command that makes one; BadInputError when it cannot be
    read, and when it is one of another architecture: a damaged or wrong artifact does not make the search go on.
    """
    places = [explicit] if explicit is not None else _places(card.name)
    path = next((place for place in places if place.is_dir()), None)
    if path is None:
        looked = " or ".join(str(place) for place in places)
        raise MissingArtifactError(
            f"there is no artifact of {card.name} in {looked}: make one with `{card.export_command()}`, pass "
            f"artifact=FOLDER, or let {VARIABLE} name a folder with {card.name} in it"
        )
    manifest = read_manifest(path)
    if manifest.model.model_type != card.architecture:
        raise BadInputError(
            f"{path} is an artifact of a {manifest.model.model_type} model, and {card.name} is one of "
            f"{card.architecture}: pass the folder of another artifact"
        )
    return FoundArtifact(path, manifest)


def _places(name: str) -> list[Path]:
    folder = os.environ.get(VARIABLE)
    return [*([Path(folder) / name] if folder else []), Path("artifacts") / name]
