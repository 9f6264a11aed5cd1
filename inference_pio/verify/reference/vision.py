"""The original of a model with a vision tower: all of transformers' own model in float32, image by image.

Not streamed: the model must fit into memory. Images are read and prepared by transformers as well, the prompt is
written by the checkpoint's template in transformers, and positions are transformers' own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import logging

from inference_pio.errors import BadInputError
from inference_pio.verify.examples import Example
from inference_pio.verify.reference.streaming import torch_threads
from inference_pio.verify.reference.tokens import first_line


@dataclass(frozen=True)
class ReferenceAnswer:
    """Token ids of a whole example, how many of them are the answer, and what predicts those: float32 [answer, V]."""

    ids: list[int]
    answer: int
    logits: np.ndarray


def answers(
    folder: Path,
    examples: Sequence[Example],
    layers: int | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[ReferenceAnswer]:
    """What the checkpoint in `folder` makes of each example; `layers` cuts its decoder to the first ones.

    Raises BadInputError when transformers cannot load the model, its tokenizer or its image processor.
    """
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        processor: Any = Qwen2VLImageProcessorPil.from_pretrained(folder)
        model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False, local_files_only=True
        ).eval()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"transformers cannot load the model of {folder}: {first_line(error)}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    decoder = model.model.language_model
    decoder.layers = decoder.layers[:layers]
    for index, example in enumerate(examples):
        with torch_threads(threads), torch.inference_mode():
            yield _answer(model, tokenizer, processor, example)
        if progress is not None:
            progress(index + 1, len(examples))


def _answer(model: Any, tokenizer: Any, processor: Any, example: Example) -> ReferenceAnswer:
    text = tokenizer.apply_chat_template(example.messages, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    answer = tokenizer(example.answer, add_special_tokens=False)["input_ids"]
    image_token, images = model.config.image_token_id, {}
    if example.images:
        images = dict(processor([str(image) for image in example.images], return_tensors="pt"))
        merged = processor.merge_size**2
        counts = iter((images["image_grid_thw"].prod(-1) // merged).tolist())
        prompt = [t for token in prompt for t in ([token] * next(counts) if token == image_token else [token])]
    ids = torch.tensor([[*prompt, *answer]])
    kinds = (ids == image_token).int()
    model.model.rope_deltas = None  # of the example before
    output = model(input_ids=ids, mm_token_type_ids=kinds, use_cache=False, logits_to_keep=len(answer) + 1, **images)
    return ReferenceAnswer(ids[0].tolist(), len(answer), output.logits[0, :-1].float().numpy())
