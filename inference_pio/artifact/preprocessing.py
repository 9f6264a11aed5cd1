"""How a checkpoint wants its images prepared: what its `preprocessor_config.json` says, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference_pio.artifact.printable import printable
from inference_pio.errors import BadInputError

IMAGE_FILE, VIDEO_FILE = "preprocessor_config.json", "video_preprocessor_config.json"

BICUBIC = 3
MAX_PIXELS = 1 << 30

# What may stand there without a meaning for frames that are given one by one.
_HARMLESS = {
    "cap_pixels_per_frame",
    "data_format",
    "default_to_square",
    "device",
    "disable_grouping",
    "do_sample_frames",
    "feature_extractor_type",
    "fps",
    "image_processor_type",
    "input_data_format",
    "max_duration",
    "max_frames",
    "max_image_size",
    "max_video_tokens",
    "min_frames",
    "num_frames",
    "processor_class",
    "return_metadata",
    "return_tensors",
    "video_metadata",
    "video_processor_type",
}
_STEPS = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")


@dataclass(frozen=True)
class Preprocessing:
    """Images are resized to between `min_pixels` and `max_pixels`, in all frames together, and cut into patches.

    A value v of 0 to 255 becomes `(v * rescale - mean) / deviation` of its channel.
    """

    min_pixels: int
    max_pixels: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    rescale: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @property
    def factor(self) -> int:
        """Pixels of a token's side: what sides are multiples of."""
        return self.patch_size * self.merge_size


def read_preprocessing(values: Mapping[str, Any], where: str) -> Preprocessing:
    """What a preprocessor_config.json says; raises BadInputError for all that it does not say or that is not known."""
    known = {"size", "min_pixels", "max_pixels", "rescale_factor", "resample", "image_mean", "image_std", *_STEPS}
    known |= {"patch_size", "temporal_patch_size", "merge_size"} | _HARMLESS
    strange = sorted(key for key, value in values.items() if key not in known and value not in (None, False))
    if strange:
        raise BadInputError(f"{where} has a key {printable(strange[0])} that is not known: it may change the images")
    for step in _STEPS:
        if values.get(step) is False:
            raise BadInputError(f"{where}: {step} is false; only true is supported")
    if values.get("resample") not in (None, BICUBIC):
        raise BadInputError(f"{where}: resample is {printable(values['resample'])}; only {BICUBIC} is supported")
    if values.get("cap_pixels_per_frame"):
        raise BadInputError(f"{where}: cap_pixels_per_frame is true; only false is supported")
    size = values.get("size") or {}
    if not isinstance(size, Mapping):
        raise BadInputError(f"{where}: size must be an object with shortest_edge and longest_edge")
    least, most = values.get("min_pixels"), values.get("max_pixels")
    found = Preprocessing(
        _whole(size.get("shortest_edge") if least is None else least, f"{where}: size: shortest_edge"),
        _whole(size.get("longest_edge") if most is None else most, f"{where}: size: longest_edge"),
        _whole(values.get("patch_size"), f"{where}: patch_size"),
        _whole(values.get("temporal_patch_size"), f"{where}: temporal_patch_size"),
        _whole(values.get("merge_size"), f"{where}: merge_size"),
        _number(values.get("rescale_factor", 1 / 255), f"{where}: rescale_factor"),
        _channels(values.get("image_mean"), f"{where}: image_mean"),
        _channels(values.get("image_std"), f"{where}: image_std"),
    )
    if found.min_pixels > found.max_pixels:
        raise BadInputError(f"{where}: images need at least {found.min_pixels} and at most {found.max_pixels} pixels")
    if min(found.deviation) <= 0:
        raise BadInputError(f"{where}: image_std must be above 0")
    return found


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_PIXELS:
        raise BadInputError(f"{name} is {printable(value)}; it must be a whole number from 1 to {MAX_PIXELS}")
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e9:
        raise BadInputError(f"{name} is {printable(value)}, not a number")
    return float(value)


def _channels(value: Any, name: str) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != 3:
        raise BadInputError(f"{name} is {printable(value)}, not a list of three numbers")
    return tuple(_number(item, name) for item in value)
