"""A line of a file about images, for verification and calibration: images and videos, a question, and its answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_pio.artifact.printable import printable
from inference_pio.errors import BadInputError
from inference_pio.runtime.values import checked_float
from inference_pio.runtime.vision.messages import DEFAULT_FPS
from inference_pio.runtime.vision.pixels import read_pixels

EXAMPLE = '{"images": ["cat.png"], "prompt": "What is it?", "answer": "A cat."}'
KEYS = {"images", "prompt", "answer"}
DIGITS = 16
"""Of an image's digest, hexadecimal, in the fingerprint of a calibration."""


@dataclass(frozen=True)
class Film:
    """The files of a video's frames, and how many of them a second has."""

    frames: tuple[Path, ...]
    fps: float


@dataclass(frozen=True)
class Example:
    """A prompt behind its images and then its videos, and the answer to it."""

    images: tuple[Path, ...]
    prompt: str
    answer: str
    videos: tuple[Film, ...] = ()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The question as a conversation."""
        parts: list[dict[str, Any]] = [{"type": "image", "image": str(image)} for image in self.images]
        for video in self.videos:
            parts.append({"type": "video", "video": [str(frame) for frame in video.frames], "fps": video.fps})
        return [{"role": "user", "content": [*parts, {"type": "text", "text": self.prompt}]}]

    @property
    def files(self) -> tuple[Path, ...]:
        """All its images, those of videos too."""
        return (*self.images, *(frame for video in self.videos for frame in video.frames))


def read_example(values: Mapping[str, Any], where: str, folder: Path) -> Example:
    """The example that a JSON object such as `EXAMPLE` describes, its files relative to `folder`.

    `"videos": [{"frames": ["1.png", "2.png"], "fps": 2}]` may stand in it as well. Raises BadInputError that begins
    with `where` for anything else, and for files that are not there.
    """
    if set(values) - {"videos"} != KEYS:
        raise BadInputError(
            f"{where} must be an object with images, prompt and answer, and perhaps videos, such as {EXAMPLE}"
        )
    prompt, answer, videos = values["prompt"], values["answer"], values.get("videos", [])
    if not isinstance(prompt, str) or not isinstance(answer, str) or not answer:
        raise BadInputError(f"{where}: prompt and answer must be texts, and the answer not empty")
    if not isinstance(videos, list):
        raise BadInputError(f'{where}: videos must be a list of objects such as {{"frames": ["1.png"], "fps": 2}}')
    images = _files(values["images"], f"{where}: images", folder)
    return Example(images, prompt, answer, tuple(_film(video, where, folder) for video in videos))


def _film(value: object, where: str, folder: Path) -> Film:
    if not isinstance(value, dict) or not {"frames"} <= set(value) <= {"frames", "fps"} or not value["frames"]:
        raise BadInputError(f'{where}: a video must be an object such as {{"frames": ["1.png", "2.png"], "fps": 2}}')
    fps = checked_float(f"fps of a video in {where}", value.get("fps"), above=0.0)
    return Film(_files(value["frames"], f"{where}: frames", folder), DEFAULT_FPS if fps is None else fps)


def _files(value: object, where: str, folder: Path) -> tuple[Path, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise BadInputError(f"{where} must be a list of files")
    paths = tuple(folder / name for name in value)
    for path in paths:
        if "\0" in str(path) or not path.is_file():
            raise BadInputError(f"{where}: image {printable(str(path))} does not exist")
    return paths


def pixel_digest(image: Any) -> str:
    """The first digits of a digest of an image's pixels, whatever format they are stored in."""
    pixels = read_pixels(image, "an image")
    return hashlib.sha256(f"{pixels.shape} ".encode() + pixels.tobytes()).hexdigest()[:DIGITS]
