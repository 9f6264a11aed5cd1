"""A prompt with images: placeholders become as many tokens as each image has, with their positions and features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from inference_pio.artifact.manifest import VisionFacts
from inference_pio.errors import BadInputError
from inference_pio.runtime.vision.features import ChunkImages, Features
from inference_pio.runtime.vision.grid import Span, token_positions
from inference_pio.runtime.vision.preprocess import Patches


@dataclass(frozen=True)
class PlacedFrame:
    """A frame of an image or video, and where its tokens stand."""

    span: Span
    patches: Patches
    frame: int


@dataclass(frozen=True)
class PromptImages:
    """The images of one prompt; features are asked for when a chunk needs them, and not before."""

    length: int
    frames: tuple[PlacedFrame, ...]
    merge: int
    features: Callable[[Patches], Features] = field(repr=False, compare=False)

    def positions(self) -> tuple[np.ndarray, int]:
        """Positions int64 [3, length] and what later tokens' run ahead; see `token_positions`."""
        return token_positions(self.length, [placed.span for placed in self.frames], self.merge)

    def chunk(self, start: int, stop: int) -> ChunkImages | None:
        """The features that belong to the tokens `start` to `stop`; None where they are all text."""
        mask, layers = np.zeros((1, stop - start), np.bool_), None
        for placed in self.frames:
            count = placed.span.tokens(self.merge)
            first, last = max(start, placed.span.start), min(stop, placed.span.start + count)
            if first >= last:
                continue
            found = self.features(placed.patches).layers
            if layers is None:
                layers = np.zeros((len(found), 1, stop - start, found.shape[-1]), np.float32)
            offset = placed.frame * count - placed.span.start
            layers[:, 0, first - start : last - start] = found[:, first + offset : last + offset]
            mask[0, first - start : last - start] = True
        return None if layers is None else ChunkImages(mask, layers)

    def cache_ids(self, ids: Sequence[int], block: int) -> list[int]:
        """Ids under which the prefix cache knows the prompt: a block with images is known by their content as well.

        In place of such a block's ids stands a digest of the ids, of the images and of where they lie in it, stretched
        to as many numbers of 31 bits: no other image gives the same ones, and no text does.
        """
        keys = list(ids)
        for start in range(0, len(keys) - block + 1, block):
            inside = [placed for placed in self.frames if self._overlaps(placed, start, start + block)]
            if not inside:
                continue
            digest = hashlib.shake_256(np.asarray(ids[start : start + block], np.int64).tobytes())
            for placed in inside:
                digest.update(placed.patches.digest + f"{placed.frame} {placed.span.start - start} ".encode())
            words = np.frombuffer(digest.digest(4 * block), np.uint32)
            keys[start : start + block] = [int(word) for word in words & 0x7FFFFFFF]
        return keys

    def _overlaps(self, placed: PlacedFrame, start: int, stop: int) -> bool:
        return placed.span.start < stop and placed.span.start + placed.span.tokens(self.merge) > start


def expand(
    ids: Sequence[int],
    images: Sequence[Patches],
    videos: Sequence[Patches],
    facts: VisionFacts,
    features: Callable[[Patches], Features],
) -> tuple[list[int], PromptImages]:
    """Ids with every placeholder repeated once per token of its image or frame, and the images in their places.

    Of a video every frame has a placeholder of its own. Raises BadInputError unless there are as many placeholders as
    images and frames.
    """
    waiting = {
        facts.image_token_id: [(image, 0) for image in images],
        facts.video_token_id: [(video, frame) for video in videos for frame in range(video.grid.frames)],
    }
    for token, word in ((facts.image_token_id, "image"), (facts.video_token_id, "video frame")):
        places, given = sum(int(i) == token for i in ids), len(waiting[token])
        if places != given:
            raise BadInputError(
                f"the prompt has {places} placeholder{'s' * (places != 1)} for {word}s and {given} {word}"
                f"{'s were' if given != 1 else ' was'} given: there must be one for each"
            )
    expanded: list[int] = []
    placed = []
    for token in ids:
        if int(token) not in waiting:
            expanded.append(token)
            continue
        patches, frame = waiting[int(token)].pop(0)
        span = Span(len(expanded), patches.grid.height, patches.grid.width)
        placed.append(PlacedFrame(span, patches, frame))
        expanded += [token] * span.tokens(facts.merge_size)
    return expanded, PromptImages(len(expanded), tuple(placed), facts.merge_size, _Latest(features))


class _Latest:
    """Keeps the features that were asked for last: chunk after chunk needs them, whatever the cache has room for."""

    def __init__(self, features: Callable[[Patches], Features]) -> None:
        self._features = features
        self._held: tuple[bytes, Features] | None = None

    def __call__(self, patches: Patches) -> Features:
        held = self._held
        if held is None or held[0] != patches.digest:
            self._held = held = (patches.digest, self._features(patches))
        return held[1]
