"""The training script in small: batches, schedule, and a run that resumes exactly."""

import math
from pathlib import Path

import pytest
import torch
from tiny_measure import unigram_perplexity
from train_tiny import Plan, batch, learning_rate, train


def test_an_epoch_repeats_no_token() -> None:
    plan = Plan(block=128, blocks_per_step=2)
    stream = torch.arange(128 * 21)
    seen = torch.cat([batch(stream, plan, step).flatten() for step in range(10)])
    assert len(seen) == len(torch.unique(seen)) == 10 * 256
    assert not torch.equal(batch(stream, plan, 0), batch(stream, plan, 10))


def test_batches_have_short_and_long_rows() -> None:
    plan = Plan()
    stream = torch.arange(1024 * 100)
    shapes = [tuple(batch(stream, plan, step).shape) for step in range(10)]
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


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_tiny.SAVE_EVERY", 2)
    stream = torch.randint(2048, (64 * 40,), generator=torch.Generator().manual_seed(1))
    plan = Plan(steps=4, warmup=1, block=64, blocks_per_step=1)
    straight = train(stream, plan, None).state_dict()
    state = tmp_path / "state.pt"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, steps=3)
        train(stream, plan, state)
    assert torch.load(state)["step"] == 2
    resumed = train(stream, plan, state).state_dict()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def stop_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Interrupt training when it asks for one more batch than ``steps``."""

    def interrupted(stream: torch.Tensor, plan: Plan, step: int) -> torch.Tensor:
        if step == steps:
            raise KeyboardInterrupt
        return batch(stream, plan, step)

    patch.setattr("train_tiny.batch", interrupted)
