"""The step of a static head's input."""

import sys
from pathlib import Path

import numpy as np
import pytest

from inference_pio.calibration.head import Head
from inference_pio.calibration.observers import ObserverKind
from inference_pio.errors import BadInputError

sys.path.insert(0, str(Path(__file__).parents[1]))
from graph_cases import SPEC, Handmade, arrays_of, canonical


def hidden(samples: int = 3, length: int = 20) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(0, 3, (1, length, SPEC.hidden_size)).astype(np.float32) for _ in range(samples)]


def test_the_widest_step_covers_the_normed_states():
    found = Head.of(canonical()).step(hidden(), 3, ObserverKind.MIN_MAX)
    states = np.concatenate(hidden(), axis=1)[0].astype(np.float64)
    normed = states / np.sqrt(np.square(states).mean(axis=1, keepdims=True) + SPEC.norm_epsilon)
    normed *= arrays_of(SPEC)["model.norm.weight"]
    assert found == pytest.approx(np.abs(normed).max() / 127, rel=1e-5)


def test_without_a_wish_the_kind_with_the_least_error_is_taken():
    head, states = Head.of(canonical()), hidden()
    states[0][0, 0, 0] = 1e3  # a lone outlier, which the widest step would pay for
    assert head.step(states, 3, None) <= head.step(states, 3, ObserverKind.MIN_MAX)


def test_a_head_without_a_norm_is_refused():
    made = Handmade()
    made.output(made.linear(made.input("x", 1, 4, 8), made.weight("head", 16, 8)), "logits", 1, 4, 16)
    with pytest.raises(BadInputError, match="no norm stands before its head"):
        Head.of(made.model)
