"""What can be chosen about a build, what it reports, and who listens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from inference_pio.errors import BadInputError

DEFAULT_CONTEXT = 4096
"""Tokens; memory for activations grows with the longest cache that an engine takes."""
DEFAULT_IMAGE_TOKENS = 256
"""Of an image: 512 x 512 pixels, as `plan` counts with. Attention's memory grows with the square of it."""


@dataclass(frozen=True)
class BuildOptions:
    """Options of `build`.

    `max_context` is the longest sequence in tokens (None: the model's, at most 4,096); `max_image_tokens` the largest
    image, or frame of a video (None: the model's, at most 256); `workspace` what a kernel may take of the GPU's memory
    beside activations, in bytes (None: TensorRT's own limit); `device` the GPU's number; `force` builds again what is
    there.

    Raises BadInputError for values out of range.
    """

    max_context: int | None = None
    max_image_tokens: int | None = None
    workspace: int | None = None
    device: int = 0
    force: bool = False

    def __post_init__(self) -> None:
        for name, least in (("max_context", 1), ("max_image_tokens", 1), ("workspace", 1), ("device", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise BadInputError(f"{name} must be at least {least}, not {value}")


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that is in place: its graph, bytes, seconds that building took, and whether it was there before."""

    graph: str
    size: int
    seconds: float
    reused: bool


@dataclass(frozen=True)
class BuildReport:
    """The folder of engines, what they are for, and each of them; `image_tokens` is None without a vision tower."""

    folder: str
    gpu: str
    tensorrt: str
    cache_rows: int
    image_tokens: int | None
    engines: tuple[BuiltEngine, ...]


class BuildProgress(Protocol):
    """Receives what is about to be built, and what was."""

    def start(self, graph: str, number: int, total: int) -> None:
        """Called before each engine, numbered from 1."""

    def done(self, engine: BuiltEngine) -> None:
        """Called when an engine is in place."""


class SilentProgress:
    """Tells nobody."""

    def start(self, graph: str, number: int, total: int) -> None:
        """Nothing."""

    def done(self, engine: BuiltEngine) -> None:
        """Nothing."""
