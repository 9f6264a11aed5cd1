"""Questions about images as transformers reads them: its template, its tokenizer, its Pillow processor.

Frames of a video are resized by Pillow too, where transformers uses torchvision; sizes, patches and times are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer
from transformers.image_utils import SizeDict, load_image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor, smart_resize
from transformers.utils import logging

from inference_pio.artifact.jsonfile import read_json_object
from inference_pio.artifact.preprocessing import VIDEO_FILE, Preprocessing, read_preprocessing
from inference_pio.calibration.examples import Example, Film
from inference_pio.errors import BadInputError
from inference_pio.verify.reference.tokens import first_line


@dataclass(frozen=True)
class Question:
    """Token ids of a whole example, how many of them are the answer, and their kinds: 0 text, 1 image, 2 video.

    `images` and `videos` are patches float32 [patches, values] and grids int64 [n, 3], None without any.
    """

    ids: list[int]
    answer: int
    kinds: list[int]
    images: tuple[torch.Tensor, torch.Tensor] | None
    videos: tuple[torch.Tensor, torch.Tensor] | None


def read_questions(folder: Path, examples: Sequence[Example]) -> list[Question]:
    """What the checkpoint in `folder` makes of examples before its model runs.

    Raises BadInputError when transformers cannot load its tokenizer or its image processor.
    """
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        reader = _Reader(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"transformers cannot load the processors of {folder}: {first_line(error)}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    return [reader.read(example) for example in examples]


class _Reader:
    def __init__(self, folder: Path) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        self._processor: Any = Qwen2VLImageProcessorPil.from_pretrained(folder)
        self._config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        file = folder / VIDEO_FILE
        self._rules = read_preprocessing(read_json_object(file), str(file)) if file.exists() else None

    def read(self, example: Example) -> Question:
        image, video = self._config.image_token_id, self._config.video_token_id
        text = self._tokenizer.apply_chat_template(example.messages, tokenize=False, add_generation_prompt=True)
        films = [self._film(film) for film in example.videos]
        text = self._timed(text, example.videos, [grid for _, grid in films])
        answer = self._tokenizer(example.answer, add_special_tokens=False)["input_ids"]
        images = None
        if example.images:
            found = self._processor([str(path) for path in example.images], return_tensors="pt")
            images = found["pixel_values"], found["image_grid_thw"]
        videos = (torch.cat([f for f, _ in films]), torch.cat([g for _, g in films])) if films else None
        merged = self._processor.merge_size**2
        counts = {
            image: iter([] if images is None else (images[1].prod(-1) // merged).tolist()),
            video: iter([int(h * w) // merged for _, grid in films for t, h, w in grid for _ in range(t)]),
        }
        prompt = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = [t for token in prompt for t in ([token] * next(counts[token]) if token in counts else [token])] + answer
        return Question(ids, len(answer), [(t == image) + 2 * (t == video) for t in ids], images, videos)

    def _timed(self, text: str, films: Sequence[Film], grids: Sequence[torch.Tensor]) -> str:
        """The text with a placeholder per frame, its time in front."""
        names = (f"{name}_token_id" for name in ("vision_start", "video", "vision_end"))
        mark = "".join(self._tokenizer.convert_ids_to_tokens(getattr(self._config, name)) for name in names)
        pieces = text.split(mark)
        if len(pieces) != len(films) + 1:
            raise BadInputError(f"the template writes {len(pieces) - 1} placeholders for {len(films)} videos")
        written = pieces[0]
        for film, grid, after in zip(films, grids, pieces[1:], strict=True):
            long = -(-len(film.frames) // int(grid[0, 0]))
            times = Qwen3VLProcessor._calculate_timestamps(None, list(range(len(film.frames))), film.fps, long)
            written += "".join(f"<{time:.1f} seconds>{mark}" for time in times) + after
        return written

    def _film(self, film: Film) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches float32 [patches, values] and grid int64 [1, 3] of a video."""
        rules = self._rules
        if rules is None:
            raise BadInputError(f"the checkpoint has no {VIDEO_FILE}, so its model takes images only")
        long, frames = rules.temporal_patch_size, [np.asarray(load_image(str(f)).convert("RGB")) for f in film.frames]
        if len(frames) < long or len({frame.shape for frame in frames}) > 1:
            raise BadInputError(
                f"a video must have at least {long} frames, all of one size: {film.frames[0]} begins none"
            )
        height, width = smart_resize(
            len(frames), *frames[0].shape[:2], long, rules.factor, rules.min_pixels, rules.max_pixels
        )
        frames += [frames[-1]] * (-len(frames) % long)
        size = SizeDict(height=height, width=width)
        resized = [self._normalized(frame, size, rules) for frame in frames]
        stacked = torch.from_numpy(np.stack(resized))[None]
        patches, *grid = Qwen3VLVideoProcessor.patchify(None, stacked, rules.patch_size, rules.merge_size, long)
        return patches.reshape(-1, patches.shape[-1]), torch.tensor([grid])

    def _normalized(self, frame: np.ndarray, size: SizeDict, rules: Preprocessing) -> np.ndarray:
        """One frame, float32 [3, height, width]."""
        base: Any = super(Qwen2VLImageProcessorPil, self._processor)
        image = base.resize(image=frame.transpose(2, 0, 1), size=size, resample=self._processor.resample)
        image = self._processor.rescale(image, rules.rescale)
        found: np.ndarray = self._processor.normalize(image, list(rules.mean), list(rules.deviation))
        return np.asarray(found, np.float32)
