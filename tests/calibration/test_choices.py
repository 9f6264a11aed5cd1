"""What is decided for a layer's inputs: static steps of the asked kind or the best, and for whom."""

import numpy as np
from layer_cases import OFF, WEIGHTS, K, Q, observed

from inference_pio.calibration.choices import TapChoice, choose, choose_step
from inference_pio.calibration.observers import Observer, ObserverKind
from inference_pio.calibration.products import relative_error
from inference_pio.graphs.formats import FP32, W8A8, W8A8_STATIC, WeightFormat


def stepped(kind: ObserverKind | None, x_TK: np.ndarray, formats: tuple[WeightFormat, ...]) -> TapChoice:
    statistics = observed()
    choice = choose(statistics, WEIGHTS, lambda _: W8A8_STATIC, OFF)[0]
    observer = Observer("x", 32)
    observer.update(x_TK)
    return choose_step(choice, observer, kind, x_TK, [(WEIGHTS[n], f) for n, f in zip((Q, K), formats, strict=True)])


def test_a_static_step_is_that_of_the_asked_kind_or_the_best():
    x = np.random.default_rng(0).standard_t(2.5, (400, 32)).astype(np.float32)
    x[3, 4] = 400
    for kind in ObserverKind:
        observer = Observer("x", 32)
        observer.update(x)
        found = stepped(kind, x, (W8A8_STATIC, W8A8_STATIC))
        assert (found.step, found.observer) == (observer.scale(kind), kind.value)
    errors = {}
    for kind in ObserverKind:
        step = stepped(kind, x, (W8A8_STATIC, W8A8_STATIC)).step
        seen = np.clip(np.rint(x / np.float32(step)), -128, 127) * np.float32(step)
        errors[kind.value] = np.mean([relative_error(x @ WEIGHTS[n].T, seen @ WEIGHTS[n].T) for n in (Q, K)])
    assert stepped(None, x, (W8A8_STATIC, W8A8_STATIC)).observer == min(errors, key=lambda kind: errors[kind])


def test_a_step_is_chosen_for_the_static_linear_layers_of_a_tap():
    x = np.random.default_rng(0).normal(size=(50, 32)).astype(np.float32)
    assert stepped(None, x, (FP32, W8A8)).step is None
    assert stepped(None, x, (FP32, W8A8_STATIC)).step == stepped(None, x, (W8A8, W8A8_STATIC)).step is not None
    zero = stepped(None, np.zeros_like(x), (W8A8_STATIC, W8A8_STATIC))
    assert zero.step is not None and zero.step > 0
