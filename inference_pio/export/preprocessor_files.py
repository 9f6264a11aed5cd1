"""The files that say how images are prepared are checked before a long export, and against the vision tower."""

from __future__ import annotations

from inference_pio.artifact.jsonfile import read_json_object
from inference_pio.artifact.preprocessing import IMAGE_FILE, VIDEO_FILE, read_preprocessing
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError
from inference_pio.graphs.spec import VisionSpec

SIZES = ("patch_size", "temporal_patch_size", "merge_size")


def check_preprocessors(checkpoint: Checkpoint, vision: VisionSpec | None) -> None:
    """Raise BadInputError unless a model with a vision tower says how its images are prepared, and for that tower."""
    if vision is None:
        return
    files = {file.name: file for file in checkpoint.preprocessor_files}
    if IMAGE_FILE not in files:
        raise BadInputError(
            f"{checkpoint.path} has no {IMAGE_FILE}, which says how images are prepared: copy it from the original"
        )
    for name in (IMAGE_FILE, VIDEO_FILE):
        if name not in files:
            continue
        found = read_preprocessing(read_json_object(files[name]), name)
        for size in SIZES:
            if getattr(found, size) != getattr(vision, size):
                raise BadInputError(
                    f"{name} has a {size} of {getattr(found, size)}, but config.json implies {getattr(vision, size)}: "
                    "the two belong to different models"
                )
