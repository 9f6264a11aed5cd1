"""Turns drawn samples into what the tiny vision model is called with, and measures its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tiny_families import Plan
from tiny_images import Sample, sample
from tiny_training import Batches, text_batch
from tokenizers import Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from inference_pio.runtime.chat_template import ChatTemplate

IMAGE = "<|image_pad|>"
IGNORED = -100  # labels that the loss leaves out
SAMPLES_PER_STEP = 32
TEXT_EVERY = 4
AT_ONCE = 30  # held-out samples measured together


class Collator:
    """Makes batches of samples: prompts by the chat template, pixels by the preprocessor, answers as labels."""

    def __init__(self, tokenizer: Tokenizer, template: str, preprocessor: dict[str, Any]) -> None:
        keys = ("size", "patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std")
        self._processor = Qwen2VLImageProcessorPil(**{key: preprocessor[key] for key in keys})
        self._merge = int(preprocessor["merge_size"])
        self._tokenizer, self._template = tokenizer, ChatTemplate(template, {})
        self._image = tokenizer.token_to_id(IMAGE)
        self._pad = 0  # masked

    def __call__(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Inputs of Qwen3VLForConditionalGeneration; labels are the answers and the tokens that end them."""
        pixels = self._processor([image for each in samples for image in each.images], return_tensors="pt")
        tokens = [int(grid.prod()) // self._merge**2 for grid in pixels["image_grid_thw"]]
        rows = []
        for each in samples:
            counts, tokens = tokens[: len(each.images)], tokens[len(each.images) :]
            rows.append(self._row(each, counts))
        length = max(len(ids) for ids, _ in rows)
        input_ids = torch.tensor([ids + [self._pad] * (length - len(ids)) for ids, _ in rows])
        labels = torch.tensor([marks + [IGNORED] * (length - len(marks)) for _, marks in rows])
        mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in rows])
        types = (input_ids == self._image).int()
        ids = {"input_ids": input_ids, "labels": labels, "attention_mask": mask, "mm_token_type_ids": types}
        return {**ids, "pixel_values": pixels["pixel_values"], "image_grid_thw": pixels["image_grid_thw"]}

    def _row(self, each: Sample, counts: list[int]) -> tuple[list[int], list[int]]:
        prompt, *rest = self._template.render(each.messages).split(IMAGE)
        for count, part in zip(counts, rest, strict=True):
            prompt += IMAGE * count + part
        before = self._tokenizer.encode(prompt).ids
        answer = self._tokenizer.encode(each.answer + "<|im_end|>").ids
        return before + answer, [IGNORED] * len(before) + answer


def mixed_batches(stream: torch.Tensor, plan: Plan, collator: Collator) -> Batches:
    """Text in every fourth step, images in the others."""

    def batches(step: int) -> dict[str, torch.Tensor]:
        if step % TEXT_EVERY:
            return collator([sample(f"{plan.seed}:{step}:{i}") for i in range(SAMPLES_PER_STEP)])
        ids = text_batch(stream, plan, step // TEXT_EVERY)
        return {"input_ids": ids, "labels": ids}

    return batches


def swapped(samples: Sequence[Sample]) -> list[Sample]:
    """Each question and answer with the images of the next sample that has as many of them."""
    found = []
    for number, each in enumerate(samples):
        others = (*samples[number + 1 :], *samples[:number])
        other = next(other for other in others if len(other.images) == len(each.images))
        found.append(Sample(other.images, each.question, each.answer))
    return found


def answer_accuracy(model: torch.nn.Module, collator: Collator, samples: Sequence[Sample]) -> tuple[float, float]:
    """Share of answers that greedy decoding gives word for word, and of their tokens given those before them."""
    whole, right, count = 0, 0, 0
    for start in range(0, len(samples), AT_ONCE):
        batch = collator(samples[start : start + AT_ONCE])
        labels = batch.pop("labels")[:, 1:]
        with torch.no_grad():
            choice = model(**batch, use_cache=False).logits[:, :-1].argmax(-1)
        asked = labels != IGNORED
        hits = choice == labels
        whole += int((hits | ~asked).all(1).sum())
        right += int((hits & asked).sum())
        count += int(asked.sum())
    return whole / len(samples), right / count
