"""From prompts with images to token ids and patches: what the engine asks of the vision part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.manifest import GraphFacts, VisionFacts
from inference_pio.errors import BadInputError
from inference_pio.runtime.backends.tower import Tower
from inference_pio.runtime.config import EngineConfig
from inference_pio.runtime.memory import MemoryBudget
from inference_pio.runtime.tokenizer import Tokenizer
from inference_pio.runtime.vision.encoder import VisionEncoder
from inference_pio.runtime.vision.features import Features
from inference_pio.runtime.vision.messages import Video
from inference_pio.runtime.vision.prepared import PreparedImages
from inference_pio.runtime.vision.preprocess import Patches, Preprocessor
from inference_pio.runtime.vision.prompt import PromptImages, expand

SIZES = ("patch_size", "temporal_patch_size", "merge_size")


class ImageReader:
    """Prepares the images of a prompt for a model with a vision tower; `features` makes of patches what stands there.

    Threads may share it.
    """

    def __init__(
        self,
        folder: Path,
        facts: VisionFacts,
        tokenizer: Tokenizer,
        features: Callable[[Patches], Features],
        max_tokens: int | None = None,
    ) -> None:
        """`folder` has the preprocessor's files; `max_tokens` as for `Preprocessor`."""
        self._facts, self._tokenizer, self._features = facts, tokenizer, features
        preprocessor = Preprocessor(folder, max_tokens)
        self.prepared = PreparedImages(preprocessor)
        for rules in (preprocessor.image_rules, preprocessor.video_rules):
            if rules is not None and any(getattr(rules, size) != getattr(facts, size) for size in SIZES):
                raise BadInputError(
                    f"the images that {folder} prepares are cut into other patches than its model takes: export it "
                    "again"
                )

    def prepare(
        self, ids: Sequence[int], images: Sequence[Any], films: Sequence[Patches] = ()
    ) -> tuple[list[int], PromptImages | None]:
        """Ids with placeholders expanded for `images` and for the videos `films`; None without any.

        Raises BadInputError for images that cannot be used and for placeholders that do not fit them.
        """
        stills = [self.prepared.image(image, f"image {index}") for index, image in enumerate(images)]
        expanded, placed = expand(ids, stills, films, self._facts, self._features)
        return expanded, placed if placed.frames else None

    def expand_videos(self, text: str, videos: Sequence[Video]) -> tuple[str, list[Patches]]:
        """A text in which each video's placeholder became one per frame with its time in front, and the videos.

        As the model was trained: `<0.5 seconds>`, then the frame between the marks of vision.
        """
        films = [self.prepared.video(video.frames, f"video {index}") for index, video in enumerate(videos)]
        start, pad, end = (
            self._word(token)
            for token in (
                self._facts.vision_start_token_id,
                self._facts.video_token_id,
                self._facts.vision_end_token_id,
            )
        )
        pieces = text.split(f"{start}{pad}{end}")
        if len(pieces) != len(videos) + 1:
            raise BadInputError(
                f"the prompt has {len(pieces) - 1} placeholders for videos and {len(videos)} were given: there must be "
                "one for each"
            )
        result = [pieces[0]]
        for video, film, after in zip(videos, films, pieces[1:], strict=True):
            result += [f"<{time:.1f} seconds>{start}{pad}{end}" for time in self._times(video, film)]
            result.append(after)
        return "".join(result), films

    def _times(self, video: Video, film: Patches) -> Iterator[float]:
        """Seconds at which the frames of each patch stand, in the middle between its first and last."""
        long = self._facts.temporal_patch_size
        for index in range(film.grid.frames):
            first, last = index * long, min(index * long + long, len(video.frames)) - 1
            yield (first / video.fps + last / video.fps) / 2

    def _word(self, token_id: int) -> str:
        word = self._tokenizer.id_to_token(token_id)
        if word is None:
            raise BadInputError(f"tokenizer.json has no token {token_id}, which config.json names: restore the file")
        return word


class VisionInput(ImageReader):
    """Prepares the images of an artifact with a vision tower, and runs that. Threads may share it."""

    def __init__(
        self,
        artifact: Artifact,
        facts: VisionFacts,
        tokenizer: Tokenizer,
        open_tower: Callable[[GraphFacts], Tower],
        budget: MemoryBudget,
        config: EngineConfig,
    ) -> None:
        """`open_tower` loads the vision tower when the first image comes."""
        self.encoder = VisionEncoder(artifact, facts, open_tower, budget, config.image_cache_bytes)
        super().__init__(artifact.path, facts, tokenizer, self.encoder.features, config.max_image_tokens)

    def close(self) -> None:
        """Release the vision tower."""
        self.encoder.close()
