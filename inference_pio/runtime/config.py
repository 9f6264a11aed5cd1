"""How an engine is opened."""

from __future__ import annotations

import enum
import os
import re
from dataclasses import dataclass
from pathlib import Path

from inference_pio.errors import BadInputError

DEFAULT_PREFIX_CACHE_BYTES = 256 << 20
DEFAULT_IMAGE_CACHE_BYTES = 128 << 20


BACKENDS = ("auto", "ort", "chain", "tensorrt")
DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


class VerifyHashes(str, enum.Enum):
    """When the weights' hash is checked; small files are always hashed."""

    FIRST_OPEN = "first-open"
    ALWAYS = "always"


class MapWeights(str, enum.Enum):
    """Whether weights stay in a file that is mapped: always, never, or when they would not fit into memory."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True)
class EngineConfig:
    """Options of `Engine.open`.

    `backend` and `device` "auto" take what the artifact was made for; "cuda:1" is the second GPU, and an artifact for
    GPUs runs on the "cpu" as well, as far as its operators do; backend "chain" runs an artifact for TensorRT block by
    block on ONNX Runtime's CPU. `threads` None uses one per physical core.
    `max_memory` (bytes) bounds weights, caches and the process around them. `max_context` lowers the artifact's
    context. `prefix_cache_bytes` 0 turns the prefix cache off. `max_image_tokens` shrinks every image and video to at
    most so many tokens (models of text refuse it); `image_cache_bytes` is what the features of images seen before may
    take. `map_weights` lets the weights stay on disk: they are prepacked once into `cache_dir`, and then mapped.
    `cache_dir` also holds the stamps of checked weights; None is ~/.cache/inference-pio. `allow_failed` opens an
    artifact whose verification failed.

    Raises BadInputError for values out of range.
    """

    backend: str = "auto"
    device: str = "auto"
    threads: int | None = None
    max_memory: int | None = None
    max_context: int | None = None
    prefix_cache_bytes: int = DEFAULT_PREFIX_CACHE_BYTES
    verify_hashes: VerifyHashes | str = VerifyHashes.FIRST_OPEN
    max_image_tokens: int | None = None
    image_cache_bytes: int = DEFAULT_IMAGE_CACHE_BYTES
    map_weights: MapWeights | str = MapWeights.AUTO
    cache_dir: str | os.PathLike[str] | None = None
    allow_failed: bool = False

    def __post_init__(self) -> None:
        leasts = {"threads": 1, "max_memory": 1, "max_context": 1, "max_image_tokens": 1}
        for name, least in {**leasts, "prefix_cache_bytes": 0, "image_cache_bytes": 0}.items():
            value = getattr(self, name)
            if value is None and name in leasts:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise BadInputError(f"{name} must be a whole number of at least {least}, not {value!r}")
        if self.backend not in BACKENDS:
            raise BadInputError(f"backend '{self.backend}' is not known: use {' or '.join(BACKENDS)}")
        if not isinstance(self.device, str) or not DEVICE.fullmatch(self.device):
            raise BadInputError(f"device {self.device!r} is not known: use auto, cpu, cuda or cuda:N")
        if self.map_weights == MapWeights.ON and self.device.startswith("cuda"):
            raise BadInputError("map_weights is for the CPU: leave it out, or open the artifact with device 'cpu'")
        if self.cache_dir is not None and not isinstance(self.cache_dir, (str, os.PathLike)):
            raise BadInputError(f"cache_dir must be the path of a folder, not {self.cache_dir!r}")
        for name, kind in (("verify_hashes", VerifyHashes), ("map_weights", MapWeights)):
            try:
                object.__setattr__(self, name, kind(getattr(self, name)))
            except ValueError:
                choices = " or ".join(choice.value for choice in kind)
                raise BadInputError(f"{name} '{getattr(self, name)}' is not known: use {choices}") from None

    @property
    def gpu_number(self) -> int:
        """The GPU that `device` means where it is not the CPU: the first one unless a number is given."""
        return int(self.device.partition(":")[2] or 0)

    @property
    def cache(self) -> Path:
        """The folder of stamps and derived files."""
        return Path.home() / ".cache" / "inference-pio" if self.cache_dir is None else Path(self.cache_dir)
