"""Batches of images and text: placeholders, labels, and that the measure of answers notices the image."""

from __future__ import annotations

import pytest
import torch
from tiny_families import Plan, family
from tiny_images import sample
from tiny_tokenizer import add_tokens, text_entries
from tiny_vision import IGNORED, Collator, answer_accuracy, mixed_batches, swapped
from tokenizers import Tokenizer

from inference_pio.tiny import tiny_checkpoint

FAMILY = family("qwen3_vl")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    found = text_entries(tiny_checkpoint("qwen3") / "tokenizer.json")
    add_tokens(found, FAMILY.tokens)
    return found


@pytest.fixture(scope="module")
def collator(tokenizer: Tokenizer) -> Collator:
    assert FAMILY.preprocessor is not None
    return Collator(tokenizer, FAMILY.chat_template, FAMILY.preprocessor)


def test_every_image_has_as_many_placeholders_as_merged_patches(collator: Collator) -> None:
    samples = [sample(str(number)) for number in range(24)]
    batch = collator(samples)
    images = FAMILY.config["image_token_id"]
    assert len(batch["image_grid_thw"]) == sum(len(each.images) for each in samples)
    assert batch["pixel_values"].shape == (int(batch["image_grid_thw"].prod(1).sum()), 3 * 2 * 16 * 16)
    grids = iter(batch["image_grid_thw"].prod(1).tolist())
    for row, each in zip(batch["input_ids"], samples, strict=True):
        assert int((row == images).sum()) == sum(next(grids) // 4 for _ in each.images)
    assert torch.equal(batch["mm_token_type_ids"], (batch["input_ids"] == images).int())
    assert batch["pixel_values"].min() >= -1 and batch["pixel_values"].max() <= 1


def test_labels_are_the_answer_and_the_end_of_the_turn(collator: Collator, tokenizer: Tokenizer) -> None:
    samples = [sample(str(number)) for number in range(12)]
    batch = collator(samples)
    for ids, labels, mask, each in zip(
        batch["input_ids"], batch["labels"], batch["attention_mask"], samples, strict=True
    ):
        asked = labels != IGNORED
        assert tokenizer.decode(labels[asked].tolist(), skip_special_tokens=False) == each.answer + "<|im_end|>"
        assert torch.equal(ids[asked], labels[asked])
        text = tokenizer.decode(ids[mask.bool()].tolist(), skip_special_tokens=False)
        assert text.endswith(f"{each.question}<|im_end|>\n<|im_start|>assistant\n{each.answer}<|im_end|>")
        assert text.count("<|vision_start|>") == len(each.images)


def test_text_and_images_take_turns(collator: Collator) -> None:
    plan = Plan(block=64, blocks_per_step=2)
    stream = torch.arange(64 * 40) % 2000
    batches = mixed_batches(stream, plan, collator)
    assert ["pixel_values" in batches(step) for step in range(8)] == [False, True, True, True] * 2
    assert not torch.equal(batches(0)["input_ids"], batches(4)["input_ids"])
    assert not torch.equal(batches(1)["pixel_values"][:4], batches(2)["pixel_values"][:4])


def test_swapped_samples_keep_question_and_answer() -> None:
    samples = [sample(str(number)) for number in range(20)]
    for before, after in zip(samples, swapped(samples), strict=True):
        assert (before.question, before.answer) == (after.question, after.answer)
        assert len(before.images) == len(after.images) and before.images is not after.images


class Recites(torch.nn.Module):
    """Predicts the next input token, wrongly at one place of every third row."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: object) -> object:
        logits = torch.nn.functional.one_hot(input_ids.roll(-1, 1), 2064).float()
        ends = attention_mask.sum(1) - 2
        for row in range(0, len(input_ids), 3):
            logits[row, ends[row]] = 0
        return type("Output", (), {"logits": logits})


def test_an_answer_counts_only_when_every_token_is_right(collator: Collator) -> None:
    samples = [sample(str(number)) for number in range(45)]
    answers, tokens = answer_accuracy(Recites(), collator, samples)
    assert answers == pytest.approx(30 / 45)
    labels = sum(int((collator([each])["labels"] != IGNORED).sum()) for each in samples)
    assert tokens == pytest.approx(1 - 15 / labels)
