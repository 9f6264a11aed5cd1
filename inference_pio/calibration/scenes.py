"""Calibration samples that show images: conversations one behind the other, with the images in their places."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

import numpy as np

from inference_pio.artifact.jsonfile import read_json_object
from inference_pio.artifact.manifest import VisionFacts
from inference_pio.artifact.preprocessing import IMAGE_FILE, VIDEO_FILE, read_preprocessing
from inference_pio.calibration.documents import Document
from inference_pio.calibration.examples import pixel_digest
from inference_pio.errors import BadInputError
from inference_pio.graphs.spec import VisionSpec
from inference_pio.runtime.tokenizer import Tokenizer
from inference_pio.runtime.vision.features import Features
from inference_pio.runtime.vision.grid import Grid, Span, token_positions
from inference_pio.runtime.vision.input import ImageReader
from inference_pio.runtime.vision.messages import Video
from inference_pio.runtime.vision.preprocess import Patches, Preprocessor


@dataclass(frozen=True)
class Picture:
    """An image or video that is read again when its patches are needed; `digest` is of them."""

    digest: bytes
    grid: Grid
    read: Callable[[], Patches] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Place:
    """Tokens `start` and behind, `count` of them, that show those of a picture from `first` on."""

    start: int
    count: int
    first: int
    picture: Picture


@dataclass(frozen=True)
class Scene:
    """A sample with images: `ids` int64 [length], the three positions of every token, and where pictures stand."""

    ids: np.ndarray
    positions: np.ndarray
    places: tuple[Place, ...]


class SceneReader:
    """Reads documents with images for the checkpoint in `folder`, whose vision tower is `vision`.

    No image gets more than `most_tokens` tokens, unless the model's images always have more.
    """

    def __init__(self, folder: Path, vision: VisionSpec, tokenizer: Tokenizer, most_tokens: int) -> None:
        facts = VisionFacts(**{entry.name: getattr(vision, entry.name) for entry in fields(VisionFacts)})
        most = max(most_tokens, _least_tokens(folder))
        self._reader = ImageReader(folder, facts, tokenizer, _no_features, most)
        self._preprocessor = Preprocessor(folder, most)
        self._tokenizer, self._merge, self._image_token = tokenizer, vision.merge_size, vision.image_token_id
        self.pictures: dict[bytes, Picture] = {}
        """All that were read so far, by digest."""
        self.seen: set[str] = set()
        """The first digits of the digests of their pixels, frame by frame."""

    def scenes(self, documents: Iterable[Document], length: int) -> list[Scene]:
        """As many scenes of `length` tokens as the documents fill; what does not fit into one is left out of it.

        Raises BadInputError that names the line for images that cannot be used.
        """
        found, ids, places = [], list[int](), list[Place]()
        for document in documents:
            new, placed = self._placed(document)
            places += [Place(place.start + len(ids), place.count, place.first, place.picture) for place in placed]
            ids += new
            if len(ids) >= length:
                found.append(self._scene(ids, places, length))
                ids, places = [], []
        return found

    def _scene(self, ids: Sequence[int], places: Sequence[Place], length: int) -> Scene:
        spans = [Span(place.start, place.picture.grid.height, place.picture.grid.width) for place in places]
        positions, _ = token_positions(len(ids), spans, self._merge)
        inside = tuple(
            Place(place.start, min(place.count, length - place.start), place.first, place.picture)
            for place in places
            if place.start < length
        )
        return Scene(np.array(ids[:length], np.int64), positions[:, :length].copy(), inside)

    def _placed(self, document: Document) -> tuple[list[int], list[Place]]:
        try:
            text, films = document.text, list[Patches]()
            if document.videos:
                text, films = self._reader.expand_videos(text, document.videos)
            ids = self._tokenizer.encode(text, add_special_tokens=False)
            expanded, placed = self._reader.prepare(ids, document.images, films)
            for source in (*document.images, *(frame for video in document.videos for frame in video.frames)):
                self.seen.add(pixel_digest(source))
        except BadInputError as error:
            raise BadInputError(f"{document.where} cannot be used: {error}") from None
        assert placed is not None  # only documents with images come here
        readers = iter([partial(self._preprocessor.image, image, "an image") for image in document.images])
        films_of = {film.digest: partial(self._film, video) for film, video in zip(films, document.videos, strict=True)}
        places = []
        for each in placed.frames:
            still, digest = expanded[each.span.start] == self._image_token, each.patches.digest
            read = next(readers) if still else films_of[digest]
            picture = self.pictures.setdefault(digest, Picture(digest, each.patches.grid, read))
            count = each.span.tokens(self._merge)
            places.append(Place(each.span.start, count, each.frame * count, picture))
        return expanded, places

    def _film(self, video: Video) -> Patches:
        return self._preprocessor.video(video.frames, "a video")


def _least_tokens(folder: Path) -> int:
    """Tokens that the smallest image or video of a model has."""
    found = 1
    for name in (IMAGE_FILE, VIDEO_FILE):
        if (folder / name).exists():
            rules = read_preprocessing(read_json_object(folder / name), name)
            found = max(found, -(-rules.min_pixels // rules.factor**2))
    return found


def _no_features(patches: Patches) -> Features:
    raise ValueError("calibration runs the tower by itself")
