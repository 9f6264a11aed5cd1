"""Metrics against figures worked out by hand and against a plain, unchunked computation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inference_pio.errors import BadInputError
from inference_pio.verify import metrics, scratch


def logits(*rows: list[float]) -> np.ndarray:
    """Float32 logits that are the logarithms of the given probabilities."""
    return np.log(np.array(rows, dtype=np.float64)).astype(np.float32)


def test_two_outcomes_by_hand() -> None:
    original, artifact = logits([0.75, 0.25]), logits([0.5, 0.5])
    table = metrics.compare_rows(original, artifact, np.array([1]))
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert table.kl[0] == pytest.approx(expected, rel=1e-6)
    assert table.reference_nll[0] == pytest.approx(math.log(4), rel=1e-6)
    assert table.candidate_nll[0] == pytest.approx(math.log(2), rel=1e-6)
    assert table.gap[0] == pytest.approx(math.log(3), rel=1e-6)
    assert table.logit_difference[0] == pytest.approx(math.log(2), rel=1e-6)


def test_kl_is_from_the_original_to_the_artifact() -> None:
    original, artifact = logits([0.9, 0.1]), logits([0.5, 0.5])
    there = metrics.compare_rows(original, artifact, np.array([0])).kl[0]
    back = metrics.compare_rows(artifact, original, np.array([0])).kl[0]
    assert there == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2), rel=1e-6)
    assert abs(there - back) > 0.1


@pytest.mark.parametrize("vocabulary", [1, 2, 3, 5, 7, 300])
def test_any_vocabulary_against_a_plain_computation(vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(vocabulary)
    original = rng.normal(0, 3, (37, vocabulary)).astype(np.float32)
    artifact = (original + rng.normal(0, 0.3, original.shape)).astype(np.float32)
    targets = rng.integers(0, vocabulary, 37)
    monkeypatch.setattr(scratch, "CHUNK_ELEMENTS", 5 * vocabulary)
    table = metrics.compare(
        metrics.against_logits(lambda a, b: original[a:b]), lambda a, b: artifact[a:b], targets, vocabulary
    )

    p = np.exp(original.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    q = np.exp(artifact.astype(np.float64))
    q /= q.sum(axis=1, keepdims=True)
    order = np.argsort(-original, axis=1)
    assert table.kl == pytest.approx((p * np.log(p / q)).sum(axis=1), rel=1e-9, abs=1e-14)
    assert (table.reference_top == order[:, 0]).all()
    assert (table.candidate_top == artifact.argmax(axis=1)).all()
    assert (table.in_top5 == [table.candidate_top[i] in order[i, :5] for i in range(37)]).all()
    assert table.candidate_nll == pytest.approx(-np.log(q[np.arange(37), targets]), rel=1e-9, abs=1e-14)
    if vocabulary > 1:
        ordered = np.sort(np.log(p), axis=1)
        assert table.gap == pytest.approx(ordered[:, -1] - ordered[:, -2], abs=1e-9)
    figures = metrics.summarise(table, clear_gap=0.5)
    assert figures.perplexity == pytest.approx(np.exp(-np.log(q[np.arange(37), targets]).mean()))
    assert figures.perplexity_ratio == pytest.approx(figures.perplexity / figures.reference_perplexity)
    assert figures.max_logit_difference == pytest.approx(np.abs(original - artifact).max())


def test_the_same_logits_are_no_distance_apart() -> None:
    rows = np.random.default_rng(0).normal(0, 5, (20, 400)).astype(np.float32)
    figures = metrics.summarise(metrics.compare_rows(rows, rows, np.arange(20)), 0.1)
    assert (figures.kl_mean, figures.kl_max, figures.max_logit_difference) == (0, 0, 0)
    assert (figures.top1_agreement, figures.top5_agreement, figures.perplexity_ratio) == (1, 1, 1)


def test_a_constant_added_to_all_logits_changes_nothing_but_the_logits() -> None:
    rows = np.random.default_rng(1).normal(0, 2, (4, 50)).astype(np.float32)
    figures = metrics.summarise(metrics.compare_rows(rows, rows + np.float32(3), np.arange(4)), 0.1)
    assert figures.kl_max < 1e-12
    assert figures.max_logit_difference == pytest.approx(3, rel=1e-5)


def test_kl_far_below_the_resolution_of_float32_is_seen() -> None:
    rows = np.random.default_rng(2).normal(0, 3, (64, 2000)).astype(np.float32)
    near = (rows + np.random.default_rng(3).normal(0, 1e-4, rows.shape)).astype(np.float32)
    kl = metrics.summarise(metrics.compare_rows(rows, near, np.zeros(64, int)), 0.1).kl_mean
    assert 2e-9 < kl < 1e-8  # half the variance of the disturbance


def test_near_ties_are_left_out_of_the_clear_agreement_only() -> None:
    original = logits([0.5, 0.499, 0.001], [0.8, 0.1, 0.1], [0.6, 0.2, 0.2])
    artifact = logits([0.499, 0.5, 0.001], [0.8, 0.1, 0.1], [0.2, 0.6, 0.2])
    figures = metrics.summarise(metrics.compare_rows(original, artifact, np.zeros(3, int)), clear_gap=0.1)
    assert figures.top1_agreement == pytest.approx(1 / 3)
    assert figures.top1_agreement_clear == pytest.approx(1 / 2)
    assert (figures.clear_positions, figures.positions) == (2, 3)


def test_without_a_clear_position_the_clear_agreement_is_unknown() -> None:
    rows = logits([0.5, 0.5])
    assert metrics.summarise(metrics.compare_rows(rows, rows, np.array([0])), 0.1).top1_agreement_clear is None


def test_top5_asks_for_the_artifacts_choice_among_the_originals_five() -> None:
    original = logits([0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.05])
    fifth = logits([0.1, 0.1, 0.1, 0.1, 0.4, 0.1, 0.1])
    sixth = logits([0.1, 0.1, 0.1, 0.1, 0.1, 0.4, 0.1])
    assert metrics.compare_rows(original, fifth, np.array([0])).in_top5[0]
    assert not metrics.compare_rows(original, sixth, np.array([0])).in_top5[0]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_artifact_is_infinitely_far_away(broken: float) -> None:
    rows = np.random.default_rng(4).normal(0, 1, (3, 9)).astype(np.float32)
    damaged = rows.copy()
    damaged[1, 4] = broken
    figures = metrics.summarise(metrics.compare_rows(rows, damaged, np.full(3, 4)), 0.1)
    assert figures.kl_mean == math.inf
    assert figures.max_logit_difference == math.inf
    assert figures.perplexity_ratio == math.inf or broken == math.inf


def test_a_broken_original_is_an_error() -> None:
    broken = np.array([[0, 1, 0], [0, np.nan, 0]], dtype=np.float32)
    read = metrics.must_be_finite(lambda a, b: broken[a:b])
    assert read(0, 1).shape == (1, 3)
    with pytest.raises(BadInputError, match="original model"):
        read(0, 2)


def test_a_broken_simulation_agrees_with_nothing() -> None:
    rows = np.zeros((1, 3), dtype=np.float32)
    broken = np.array([[0, np.nan, 0]], dtype=np.float32)
    figures = metrics.summarise(metrics.compare_rows(broken, rows, np.array([0])), 0.1)
    assert figures.kl_mean == math.inf


def test_huge_logits_do_not_overflow() -> None:
    original = np.array([[1e30, 0, -1e30]], dtype=np.float32)
    figures = metrics.summarise(metrics.compare_rows(original, original, np.array([2])), 0.1)
    assert figures.kl_mean == 0
    assert figures.perplexity == math.inf
    assert figures.perplexity_ratio == 1
