"""The bundled vision model answers by what it sees."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_images import held_out_samples
from tiny_measure import load
from tiny_vision import IGNORED, Collator, answer_accuracy, swapped
from tokenizers import Tokenizer

from inference_pio.tiny import tiny_checkpoint

FOLDER = tiny_checkpoint("qwen3_vl")
TRAINING = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))
SAMPLES = held_out_samples()


@pytest.fixture(scope="module")
def collator() -> Collator:
    template = (FOLDER / "chat_template.jinja").read_text(encoding="utf-8")
    preprocessor = json.loads((FOLDER / "preprocessor_config.json").read_text(encoding="utf-8"))
    return Collator(Tokenizer.from_file(str(FOLDER / "tokenizer.json")), template, preprocessor)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return load(FOLDER)


def test_answers_are_as_good_as_recorded(model: torch.nn.Module, collator: Collator) -> None:
    answers, tokens = answer_accuracy(model, collator, SAMPLES)
    assert answers == pytest.approx(TRAINING["answer_accuracy"], abs=0.02) and answers >= 0.8
    assert tokens == pytest.approx(TRAINING["answer_token_accuracy"], abs=0.01) and tokens >= 0.97


def test_answers_about_other_images_are_wrong(model: torch.nn.Module, collator: Collator) -> None:
    answers, tokens = answer_accuracy(model, collator, swapped(SAMPLES))
    assert answers == pytest.approx(TRAINING["swapped_answer_accuracy"], abs=0.02) and answers <= 0.15
    assert tokens == pytest.approx(TRAINING["swapped_answer_token_accuracy"], abs=0.01) and tokens <= 0.85


@pytest.mark.parametrize("part", ["merger", "deepstack_merger_list.0", "deepstack_merger_list.1", "pos_embed"])
def test_every_part_of_the_vision_tower_matters(collator: Collator, part: str) -> None:
    batch = collator(SAMPLES[:8])
    asked = batch.pop("labels") != IGNORED
    damaged = load(FOLDER)
    with torch.no_grad():
        logits = damaged(**batch).logits
        for parameter in damaged.model.visual.get_submodule(part).parameters():
            parameter.zero_()
        change = (damaged(**batch).logits - logits)[asked].abs().max()
    assert change > 0.02  # rounding changes 1e-4


def test_the_order_of_two_images_matters(model: torch.nn.Module, collator: Collator) -> None:
    two = next(each for each in SAMPLES if len(each.images) == 2)
    assert answer_accuracy(model, collator, [type(two)(two.images[::-1], two.question, two.answer)])[0] == 0
