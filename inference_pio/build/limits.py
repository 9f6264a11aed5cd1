"""The largest inputs that engines are built for."""

from __future__ import annotations

from dataclasses import dataclass

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.cache_rows import rounded_up
from inference_pio.build.options import DEFAULT_CONTEXT, DEFAULT_IMAGE_TOKENS, BuildOptions
from inference_pio.errors import BadInputError
from inference_pio.runtime.backends.tensorrt_library import LINES
from inference_pio.runtime.vision.preprocess import Preprocessor


@dataclass(frozen=True)
class Limits:
    """Rows of cache, and tokens of an image, or of a frame, of so many patches each; None without a vision tower."""

    cache_rows: int
    image_tokens: int | None = None
    patches_per_token: int = 1


def limits_of(artifact: Artifact, options: BuildOptions) -> Limits:
    """What the options ask for, as far as the model can use it.

    Raises BadInputError for an artifact that is not for TensorRT, and when images are limited of a model that takes
    none, or below the least size that its images are prepared to.
    """
    manifest = artifact.manifest
    if manifest.dialect not in LINES:
        raise BadInputError(f"{artifact.path} was exported for {manifest.target_key}: export it with --target tensorrt")
    rows = rounded_up(min(options.max_context or DEFAULT_CONTEXT, manifest.model.context_length))
    if manifest.vision is None:
        if options.max_image_tokens is not None:
            raise BadInputError(f"{artifact.path} has no vision tower: leave --max-image-tokens out")
        return Limits(rows)
    return Limits(rows, _image_tokens(artifact, options.max_image_tokens), manifest.vision.merge_size**2)


def _image_tokens(artifact: Artifact, asked: int | None) -> int:
    """At most as many as the model's images are prepared to, at least as few."""
    prepared = Preprocessor(artifact.path)
    image, video = prepared.image_rules, prepared.video_rules
    least, most = -(-image.min_pixels // image.factor**2), image.max_pixels // image.factor**2
    if video is not None:  # its pixels are those of all frames together
        most = max(most, video.max_pixels // video.temporal_patch_size // video.factor**2)
    if asked is not None and asked < least:
        raise BadInputError(f"max_image_tokens {asked} is too small: the model's images have at least {least} tokens")
    return min(most, asked or max(least, DEFAULT_IMAGE_TOKENS))
