"""Images become patches: resized, normalized and cut, to the bit as transformers' Pillow processor does it.

Reference: `transformers.models.qwen2_vl.image_processing_pil_qwen2_vl`; for the sizes of videos
`transformers.models.qwen3_vl.video_processing_qwen3_vl`, whose resizing by torchvision may differ from Pillow's in the
last bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inference_pio.artifact.jsonfile import read_json_object
from inference_pio.artifact.preprocessing import IMAGE_FILE, VIDEO_FILE, Preprocessing, read_preprocessing
from inference_pio.errors import BadInputError
from inference_pio.runtime.vision.grid import Grid
from inference_pio.runtime.vision.pixels import image_size, import_pillow, read_pixels

MAX_FRAMES = 768
"""Of a video; what transformers samples at most."""


@dataclass(frozen=True)
class Patches:
    """An image or video as the vision tower takes it; `digest` (SHA-256) stands for its content.

    `made` are its values, or makes them when they are needed.
    """

    made: np.ndarray | Callable[[], np.ndarray]
    grid: Grid
    digest: bytes

    @property
    def values(self) -> np.ndarray:
        """Float32 [frames, patches of a frame, patch values]."""
        return self.made() if callable(self.made) else self.made


class Preprocessor:
    """Prepares images and videos as an artifact's preprocessor_config.json files say."""

    def __init__(self, folder: Path, max_tokens: int | None = None) -> None:
        """Read the files of an artifact; `max_tokens` shrinks every image, or video, to at most so many tokens.

        Raises BadInputError when one is not understood, or when `max_tokens` contradicts the least size.
        """
        self.image_rules = self._read(folder / IMAGE_FILE, max_tokens)
        self.video_rules = self._read(folder / VIDEO_FILE, max_tokens) if (folder / VIDEO_FILE).exists() else None

    def image(self, image: Any, where: str) -> Patches:
        """The patches of one image; see `read_pixels` for what it may be and what is refused."""
        rules, pixels = self.image_rules, read_pixels(image, where)
        height, width = smart_resize(pixels.shape[0], pixels.shape[1], rules)
        frames = np.broadcast_to(_resized(pixels, height, width), (rules.temporal_patch_size, height, width, 3))
        return _patches(frames, rules)

    def video(self, frames: Sequence[Any], where: str) -> Patches:
        """The patches of a video given as its frames, all of one size; a missing last frame repeats the one before."""
        rules = self.video_rules
        if rules is None:
            raise BadInputError(f"{where}: the artifact has no {VIDEO_FILE}, so the model takes images only")
        if not isinstance(frames, (list, tuple)) or not 1 <= len(frames) <= MAX_FRAMES:
            raise BadInputError(f"{where} must be a list of 1 to {MAX_FRAMES} frames")
        pixels = [read_pixels(frame, f"frame {index} of {where}") for index, frame in enumerate(frames)]
        if len({frame.shape for frame in pixels}) > 1:
            raise BadInputError(f"{where} has frames of different sizes: make them one size")
        pixels += [pixels[-1]] * (-len(pixels) % rules.temporal_patch_size)
        height, width = smart_resize(pixels[0].shape[0], pixels[0].shape[1], rules, frames=len(frames))
        return _patches(np.stack([_resized(frame, height, width) for frame in pixels]), rules)

    def tokens(self, files: Sequence[Path], video: bool) -> int:
        """Tokens of an image, or of the frames of a video, told from the headers of their files; 0 for broken ones."""
        rules = self.video_rules if video else self.image_rules
        size = image_size(files[0])
        if rules is None or size is None:
            return 0
        height, width = smart_resize(size[1], size[0], rules, frames=len(files) if video else None)
        frames = -(-len(files) // rules.temporal_patch_size) if video else 1
        return frames * (height // rules.factor) * (width // rules.factor)

    def _read(self, file: Path, max_tokens: int | None) -> Preprocessing:
        rules = read_preprocessing(read_json_object(file), str(file))
        if max_tokens is None:
            return rules
        most = min(rules.max_pixels, max_tokens * rules.factor**2)
        if most < rules.min_pixels:
            raise BadInputError(
                f"max_image_tokens {max_tokens} is too small: the model's images have at least "
                f"{-(-rules.min_pixels // rules.factor**2)} tokens"
            )
        return replace(rules, max_pixels=most)


def smart_resize(height: int, width: int, rules: Preprocessing, frames: int | None = None) -> tuple[int, int]:
    """Height and width to resize to: multiples of a token's side, near the original's ratio, within the limits.

    With `frames` the limits are those of a video, all frames together.
    """
    factor, count = rules.factor, 1
    if frames is not None:
        count = frames
        if height < factor or width < factor:
            scale = max(factor / height, factor / width)
            height, width = int(height * scale), int(width * scale)
    long = rules.temporal_patch_size
    depth = 1 if frames is None else max(round(frames / long) * long, long)
    high, wide = round(height / factor) * factor, round(width / factor) * factor
    if depth * high * wide > rules.max_pixels:
        beta = math.sqrt((count * height * width) / rules.max_pixels)
        high = max(factor, math.floor(height / beta / factor) * factor)
        wide = max(factor, math.floor(width / beta / factor) * factor)
    elif depth * high * wide < rules.min_pixels:
        beta = math.sqrt(rules.min_pixels / (count * height * width))
        high = math.ceil(height * beta / factor) * factor
        wide = math.ceil(width * beta / factor) * factor
    return high, wide


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    pil = import_pillow()
    return np.array(pil.Image.fromarray(pixels).resize((width, height), resample=pil.Image.Resampling.BICUBIC))


def _patches(frames: np.ndarray, rules: Preprocessing) -> Patches:
    """uint8 [frames, height, width, 3], as many as whole patches take, cut into patches in the order of tokens."""
    size, merge, long = rules.patch_size, rules.merge_size, rules.temporal_patch_size
    count, height, width = len(frames) // long, frames.shape[1] // size, frames.shape[2] // size
    normalized = _normalized(frames, rules)
    cut = normalized.reshape(count, long, height // merge, merge, size, width // merge, merge, size, 3)
    values = cut.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(count, height * width, -1)
    digest = hashlib.sha256(f"{count} {height} {width} ".encode() + values.tobytes()).digest()
    return Patches(np.ascontiguousarray(values), Grid(count, height, width), digest)


def _normalized(frames: np.ndarray, rules: Preprocessing) -> np.ndarray:
    """Float32 of every value, from a table of the 256 that there are: the same numbers, fifty times as fast."""
    scaled = (np.arange(256).astype(np.float64) * rules.rescale).astype(np.float32)
    mean, deviation = np.array(rules.mean, np.float32), np.array(rules.deviation, np.float32)
    table = (scaled[:, None] - mean) / deviation
    normalized = np.empty(frames.shape, np.float32)
    for channel in range(3):
        np.take(table[:, channel], frames[..., channel], out=normalized[..., channel])
    return normalized
