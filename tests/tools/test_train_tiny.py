"""Training in small: batches, schedule, and runs of every family that resume exactly."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_families import Plan, family
from tiny_measure import unigram_perplexity
from tiny_routing import Balance
from tiny_training import Batches, learning_rate, text_batch, text_batches, train


def test_an_epoch_repeats_no_token() -> None:
    plan = Plan(block=128, blocks_per_step=2)
    stream = torch.arange(128 * 21)
    seen = torch.cat([text_batch(stream, plan, step).flatten() for step in range(10)])
    assert len(seen) == len(torch.unique(seen)) == 10 * 256
    assert not torch.equal(text_batch(stream, plan, 0), text_batch(stream, plan, 10))


def test_batches_have_short_and_long_rows() -> None:
    plan = Plan()
    stream = torch.arange(1024 * 100)
    shapes = [tuple(text_batch(stream, plan, step).shape) for step in range(10)]
    assert set(shapes) == {(64, 64), (4, 1024), (32, 128), (8, 512)}
    assert shapes.count((8, 512)) == 6


def test_the_learning_rate_rises_and_falls() -> None:
    plan = Plan(steps=100, warmup=10, cosine=150, cooldown=30)
    rates = [learning_rate(plan, step) for step in range(100)]
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == plan.learning_rate
    assert rates[70] > 0.4 * plan.learning_rate and rates[99] < 0.02 * plan.learning_rate


def test_unigrams_of_a_uniform_text_are_as_many_as_its_words() -> None:
    uniform = torch.arange(16).repeat(100)
    assert unigram_perplexity(uniform, uniform, 64, 16) == pytest.approx(16)
    never_seen = unigram_perplexity(torch.zeros(100, dtype=torch.int64), torch.tensor([0, 1, 1]), 64, 16)
    assert never_seen == pytest.approx(math.exp(math.log(116)))


@pytest.mark.parametrize("name", ["qwen3", "qwen3_moe", "glm4_moe_lite"])
def test_a_resumed_run_ends_with_the_same_weights(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiny_training.SAVE_EVERY", 2)
    stream = torch.randint(2048, (64 * 40,), generator=torch.Generator().manual_seed(1))
    plan = Plan(steps=4, warmup=1, block=64, blocks_per_step=1)
    batches = text_batches(stream, plan)
    chosen = family(name)
    straight = train(chosen, batches, plan, None).state_dict()
    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        train(chosen, stopping(batches, at=3), plan, state)
    assert torch.load(state)["step"] == 2
    resumed = train(chosen, batches, plan, state).state_dict()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    biases = [value for key, value in straight.items() if key.endswith("e_score_correction_bias")]
    assert len(biases) == (3 if name == "glm4_moe_lite" else 0) and all(bias.any() for bias in biases)


def stopping(batches: Batches, at: int) -> Batches:
    """The same batches until the step ``at``, which is interrupted."""

    def interrupted(step: int) -> dict[str, torch.Tensor]:
        if step == at:
            raise KeyboardInterrupt
        return batches(step)

    return interrupted


def test_balanced_experts_are_part_of_the_training() -> None:
    stream = torch.randint(2048, (64 * 40,), generator=torch.Generator().manual_seed(1))
    plan = Plan(steps=2, warmup=1, block=64, blocks_per_step=1)
    chosen = family("qwen3_moe")
    balanced = train(chosen, text_batches(stream, plan), plan, None).state_dict()
    alone = train(replace(chosen, balance=Balance.NONE), text_batches(stream, plan), plan, None).state_dict()
    router = "model.layers.0.mlp.gate.weight"
    assert not torch.equal(balanced[router], alone[router])
