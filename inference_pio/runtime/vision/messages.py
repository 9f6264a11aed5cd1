"""Images and videos in the messages of a conversation: taken out, so that the template sees only that they are there.

A content part with an image is `{"type": "image", "image": X}`, with a video `{"type": "video", "video": [X, ...]}`, X
being a file's path, a Pillow image or a uint8 array. `fps` in a video's part says how many frames a second has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference_pio.errors import BadInputError
from inference_pio.runtime.values import checked_float

KINDS = ("image", "video")
DEFAULT_FPS = 24.0
"""What transformers takes frames for whose rate it does not know."""


@dataclass(frozen=True)
class Video:
    """The frames of a video and how many of them a second has."""

    frames: Any
    fps: float = DEFAULT_FPS


def take_media(
    messages: Sequence[Mapping[str, Any]],
) -> tuple[Sequence[Mapping[str, Any]], list[Any], list[Video]]:
    """The messages with bare parts in place of images and videos, and those in their order.

    Raises BadInputError for a part that says to be an image or video and has none.
    """
    images: list[Any] = []
    videos: list[Video] = []
    if not isinstance(messages, (list, tuple)):
        return messages, images, videos  # refused where messages are checked
    return [_taken(message, index, images, videos) for index, message in enumerate(messages)], images, videos


def _taken(message: Any, index: int, images: list[Any], videos: list[Video]) -> Any:
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, (list, tuple)):
        return message
    parts = []
    for part in content:
        kind = _kind(part)
        if kind is None:
            parts.append(part)
            continue
        where = f"the {kind} in message {index}"
        if part.get(kind) is None:
            raise BadInputError(f'{where} is missing: write {{"type": "{kind}", "{kind}": ...}}')
        if kind == "image":
            images.append(part["image"])
        else:
            fps = checked_float(f"fps of {where}", part.get("fps"), above=0.0)
            videos.append(Video(part["video"], DEFAULT_FPS if fps is None else fps))
        parts.append({"type": kind})
    return {**message, "content": parts}


def _kind(part: Any) -> str | None:
    if not isinstance(part, Mapping):
        return None
    return next((kind for kind in KINDS if part.get("type") == kind or kind in part), None)
