"""An image from wherever it comes, as red, green and blue values, exactly as transformers reads it.

A file is turned upright by its EXIF orientation and loses its transparency; a Pillow image is taken as it lies, its
transparent parts on white; so is an array. (`transformers.image_utils.load_image`, `image_transforms.convert_to_rgb`.)
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from inference_pio.artifact.printable import printable
from inference_pio.errors import BadInputError

MAX_PIXELS = 1 << 26
"""67 million, 200 MB of values; checked before anything is decoded."""
MAX_BYTES = 1 << 28
"""Of a file."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Only decoders that are part of Pillow; none starts another program."""
MAX_RATIO = 200
ORIENTATION, FIRST_TURNED = 274, 5
"""The EXIF tag that says how a picture was held, and from which value on width and height are exchanged."""


def import_pillow() -> Any:
    """The PIL package; raises BadInputError that names the extra to install."""
    try:
        import PIL
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise BadInputError(
            f"images need Pillow, which cannot be imported ({error}): pip install 'inference-pio[vision]'"
        ) from None
    return PIL


def read_pixels(image: Any, where: str) -> np.ndarray:
    """uint8 [height, width, 3] of a file's path, a Pillow image or a uint8 array.

    Arrays are [height, width, channels] or [channels, height, width] of 1, 3 or 4 channels, the latter where both
    could be meant. Raises BadInputError that begins with `where` for anything else, and for images that are broken,
    too large or too narrow.
    """
    if isinstance(image, np.ndarray):
        pixels = _from_array(image, where)
    elif isinstance(image, (str, os.PathLike)):
        pixels = _from_file(Path(image), where)
    elif "PIL.Image" in sys.modules and isinstance(image, sys.modules["PIL.Image"].Image):
        pixels = _from_pillow(image, where)
    else:
        raise BadInputError(
            f"{where} is a {type(image).__name__}: pass the path of a file, a Pillow image or a uint8 array"
        )
    height, width = pixels.shape[:2]
    if max(height, width) > MAX_RATIO * min(height, width):
        raise BadInputError(
            f"{where} has {width} x {height} pixels: one side may be at most {MAX_RATIO} times the other"
        )
    return pixels


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height of an upright file from its header; None where it is no image of a known format."""
    pil = import_pillow()
    try:
        with path.open("rb") as file, pil.Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION, 1) >= FIRST_TURNED
    except Exception:  # noqa: BLE001 (decoders raise anything when a file is broken)
        return None
    return (height, width) if turned else (width, height)


def _from_file(path: Path, where: str) -> np.ndarray:
    pil = import_pillow()
    name = printable(str(path))
    try:
        size = path.stat().st_size
        if path.is_dir() or size == 0 or size > MAX_BYTES:
            what = "a folder" if path.is_dir() else f"a file of {size} bytes"
            raise BadInputError(f"{where}, {name}, is {what}, not an image")
        with path.open("rb") as file, pil.Image.open(file, formats=FORMATS) as image:
            _check_size(image.size, f"{where}, {name},")
            # A palette's transparent colour outlives the conversion, and then counts as in any Pillow image.
            return _from_pillow(pil.ImageOps.exif_transpose(image).convert("RGB"), where)
    except BadInputError:
        raise
    except pil.UnidentifiedImageError:
        raise BadInputError(f"{where}, {name}, is not an image of a known format ({', '.join(FORMATS)})") from None
    except FileNotFoundError:
        raise BadInputError(f"{where}, {name}, does not exist") from None
    except Exception as error:  # noqa: BLE001 (decoders raise anything when a file is broken)
        raise BadInputError(f"{where}, {name}, cannot be read: {_cause(error)}") from None


def _from_pillow(image: Any, where: str) -> np.ndarray:
    pil = import_pillow()
    _check_size(image.size, where)
    try:
        if "A" not in image.getbands() and image.info.get("transparency") is None:
            return np.array(image.convert("RGB"))
        background = pil.Image.new("RGBA", image.size, (255, 255, 255, 255))
        return np.array(pil.Image.alpha_composite(background, image.convert("RGBA")).convert("RGB"))
    except Exception as error:  # noqa: BLE001 (an image that was opened lazily is decoded only here)
        raise BadInputError(f"{where} cannot be read: {_cause(error)}") from None


def _from_array(image: np.ndarray, where: str) -> np.ndarray:
    if image.dtype != np.uint8:
        raise BadInputError(f"{where} is an array of {image.dtype}: pass values of 0 to 255 as uint8")
    if image.ndim == 3 and image.shape[0] in (1, 3, 4):
        image = np.moveaxis(image, 0, -1)
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4):
        raise BadInputError(
            f"{where} is an array of shape {list(image.shape)}: pass [height, width, channels] with 1, 3 or 4 channels"
        )
    _check_size((image.shape[1], image.shape[0]), where)
    if image.shape[-1] == 1:
        return np.repeat(image, 3, axis=-1)
    if image.shape[-1] == 4:
        alpha = image[..., 3:] / 255
        return np.round(alpha * image[..., :3] + (1 - alpha) * 255).astype(np.uint8)
    return image


def _check_size(size: tuple[int, int], where: str) -> None:
    width, height = size
    if min(size) < 1:
        raise BadInputError(f"{where} has {width} x {height} pixels and is empty")
    if width * height > MAX_PIXELS:
        raise BadInputError(
            f"{where} has {width} x {height} pixels, more than the {MAX_PIXELS} allowed: make it smaller"
        )


def _cause(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
