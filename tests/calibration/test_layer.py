"""One layer's calibration: what is stored is what was measured, and every step can be left out."""

from dataclasses import replace

import numpy as np
import pytest
from graph_cases import canonical
from layer_cases import (
    DOWN,
    FORMATS,
    INT4,
    INT8,
    LAYER,
    LAYERS,
    LINEARS,
    OFF,
    SPEC,
    WEIGHTS,
    Edit,
    K,
    Q,
    V,
    folded,
    massive,
    observed,
)

from inference_pio.calibration import layer as layer_module
from inference_pio.calibration.choices import TapChoice, choose
from inference_pio.calibration.layer import LayerResult, emit
from inference_pio.calibration.layer_runs import Runner, feed_of
from inference_pio.calibration.options import Switches
from inference_pio.calibration.products import dequantized, relative_error, round_weight
from inference_pio.calibration.simulate import rounded_layer
from inference_pio.calibration.statistics import TapStatistics
from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import FP32, W8A8, W8A8_STATIC, WeightFormat


def with_steps(choices: list[TapChoice], statistics: list[TapStatistics]) -> list[TapChoice]:
    return [
        replace(choice, step=float(s.channel_max().max()) / 127, observer="min-max")
        for choice, s in zip(choices, statistics, strict=True)
    ]


def calibrated(
    formats: WeightFormat | dict[str, WeightFormat], switches: Switches, edit: Edit = lambda name, x_TK: None
) -> tuple[list[TapChoice], LayerResult]:
    format_of = (lambda name: formats) if isinstance(formats, WeightFormat) else (lambda name: formats[name])
    statistics = observed(edit)
    choices = with_steps(choose(statistics, WEIGHTS, format_of, switches), statistics)
    return choices, emit(statistics, choices, folded(choices), format_of, switches)


@pytest.mark.parametrize("edit", [lambda name, x_TK: None, massive], ids=["plain", "massive"])
@pytest.mark.parametrize("name", FORMATS)
def test_stored_arrays_are_the_weights_that_were_measured(name: str, edit: Edit):
    chosen = FORMATS[name]
    _, result = calibrated(chosen, Switches(exceptions=False), edit)
    assert set(result.weights) == set(WEIGHTS)
    for tensor in LINEARS:
        codes, scales = result.arrays[f"{tensor}.codes"], result.arrays[f"{tensor}.scales"]
        found = dequantized(codes, scales, chosen, WEIGHTS[tensor].shape[1])
        columns = result.arrays.get(f"{tensor}.exact_columns")
        assert (columns is not None) == (edit is massive and chosen.integer_product)
        if columns is not None:
            assert columns.tolist() == [5] and (found[:, columns] == 0).all()
            found[:, columns] = result.arrays[f"{tensor}.exact_weights"]
        assert found.tobytes() == result.weights[tensor].tobytes()
        assert tensor not in result.arrays
        assert (f"{tensor}.activation_scale" in result.arrays) == (chosen is W8A8_STATIC)
    for tensor in set(WEIGHTS) - set(LINEARS):
        stored = result.arrays.get(tensor)
        assert result.weights[tensor] is WEIGHTS[tensor] if stored is None else stored is result.weights[tensor]
    assert {f"model.layers.0.{n}_layernorm.weight" for n in ("input", "post_attention")} <= set(result.arrays)


@pytest.mark.parametrize("name", FORMATS)
def test_without_any_step_the_result_is_plain_rounding(name: str):
    chosen = FORMATS[name]
    _, result = calibrated(chosen, OFF, massive)
    kinds = ("codes", "scales", "activation_scale") if chosen is W8A8_STATIC else ("codes", "scales")
    assert set(result.arrays) == {f"{tensor}.{kind}" for tensor in LINEARS for kind in kinds}
    for tensor in LINEARS:
        codes, scales = round_weight(WEIGHTS[tensor], chosen, False, None)
        assert result.arrays[f"{tensor}.codes"].tobytes() == codes.tobytes()
        assert result.arrays[f"{tensor}.scales"].tobytes() == scales.tobytes()
    assert all(linear["error"] == pytest.approx(linear["plain_error"]) for linear in result.linears)
    assert result.exceptions == []


STEPS = [("smoothing", "w8a8"), ("clipping", "int4"), ("second_order", "int4"), ("exact_columns", "w8a8")]


@pytest.mark.parametrize(("step", "name"), STEPS)
def test_every_step_brings_the_error_down(step: str, name: str):
    edit = massive if step == "exact_columns" else lambda name, x_TK: None
    without = calibrated(FORMATS[name], OFF, edit)[1]
    with_it = calibrated(FORMATS[name], replace(OFF, **{step: True}), edit)[1]
    mean = [np.mean([linear["error"] for linear in result.linears]) for result in (with_it, without)]
    assert mean[0] < 0.95 * mean[1]
    plain = [[linear["plain_error"] for linear in result.linears] for result in (with_it, without)]
    assert plain[0] == pytest.approx(plain[1], rel=0.05)


def test_an_exception_keeps_all_linear_layers_of_its_tap():
    def hopeless(name: str, x_TK: np.ndarray) -> None:
        if name == Q:  # half of the channels are tiny and all that K sees of the input
            x_TK[:, ::2] *= 3000

    weights = dict(WEIGHTS)
    weights[K] = weights[K].copy()
    weights[K][:, ::2] = 0
    statistics = observed(hopeless)
    for switches, kept in ((replace(OFF, exceptions=True), [Q, K, V]), (OFF, [])):
        choices = choose(statistics, weights, lambda _: W8A8, switches)
        result = emit(statistics, choices, folded(choices, weights), lambda _: W8A8, switches)
        errors = {linear["tensor"]: linear["error"] for linear in result.linears}
        assert errors[K] > layer_module.WORST_ERROR > max(errors[Q], errors[DOWN])
        assert result.exceptions == kept
        assert [x["tensor"] for x in result.linears if x["kept_in_float32"]] == kept
        for tensor in LINEARS:
            assert (f"{tensor}.codes" in result.arrays) == (tensor not in kept)
            assert result.formats[tensor] == (FP32 if tensor in kept else W8A8)
        assert all(result.weights[tensor] is weights[tensor] for tensor in kept)


def test_an_exception_under_smoothing_stores_its_folded_weights(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(layer_module, "WORST_ERROR", 0.0)
    choices, result = calibrated(W8A8, Switches())
    tensors = folded(choices)
    assert set(result.exceptions) == set(LINEARS)
    changed = {name for name in WEIGHTS if tensors[name] is not WEIGHTS[name]}
    assert changed and set(result.arrays) == changed
    assert all(np.array_equal(result.arrays[name], tensors[name]) for name in changed)


def test_blocks_are_never_kept_in_float32(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(layer_module, "WORST_ERROR", 0.0)
    assert calibrated(INT4, Switches())[1].exceptions == []


@pytest.mark.parametrize("base", [W8A8, W8A8_STATIC])
@pytest.mark.parametrize("other", [FP32, INT8, INT4])
@pytest.mark.parametrize("odd", [Q, V])
def test_linear_layers_of_one_tap_may_have_different_formats(base, other, odd):
    formats = {name: base for name in LINEARS} | {odd: other}
    _, result = calibrated(formats, Switches(exceptions=False), massive)
    assert f"{K}.exact_columns" in result.arrays and f"{odd}.exact_columns" not in result.arrays
    assert f"{odd}.activation_scale" not in result.arrays
    assert (f"{odd}.codes" in result.arrays) == other.quantized
    if other.quantized:
        found = dequantized(result.arrays[f"{odd}.codes"], result.arrays[f"{odd}.scales"], other, 32)
        assert found.tobytes() == result.weights[odd].tobytes()
        assert np.abs(found[:, 5]).max() > 0


def test_what_is_not_finite_is_named():
    statistics = observed()
    choices = choose(statistics, WEIGHTS, lambda _: W8A8, OFF)
    broken = {**WEIGHTS, DOWN: np.full_like(WEIGHTS[DOWN], 3e38)}
    with np.errstate(all="ignore"), pytest.raises(BadInputError, match=r"mlp\.down_proj.* not finite"):
        emit(statistics, choices, broken, lambda _: W8A8, OFF)


def outputs(choices: list[TapChoice], result: LayerResult) -> tuple[np.ndarray, np.ndarray]:
    """What the layer adds to its input: as it is, and as the artifact computes it."""
    model = canonical(SPEC)
    runner = Runner(LAYERS, model.opset_imports, 1)
    hidden = np.random.default_rng(3).normal(size=(1, 20, 32)).astype(np.float32)
    shared = runner.shared_values(20)
    (exact,) = runner.session(LAYER, []).run(None, feed_of(LAYER, hidden, shared, WEIGHTS))
    session = rounded_layer(runner, LAYER, choices, result, {})
    (found,) = session.run(None, feed_of(LAYER, hidden, shared, result.weights))
    return exact - hidden, found - hidden


@pytest.mark.parametrize("name", FORMATS)
def test_a_rounded_layer_is_near_the_layer_and_not_the_same(name: str):
    choices, result = calibrated(FORMATS[name], OFF)
    choices = [replace(choice, step=0.1) for choice in choices]
    error = relative_error(*outputs(choices, result))
    assert 1e-6 < error < 0.05


def test_a_rounded_layer_leaves_exact_columns_and_exceptions_alone():
    choices, _ = calibrated(W8A8, OFF)
    plain = LayerResult(weights=dict(WEIGHTS), formats={name: W8A8 for name in LINEARS})
    rounded = relative_error(*outputs(choices, plain))
    everything = [replace(choice, exact=tuple(range(choice.tap.columns))) for choice in choices]
    assert relative_error(*outputs(everything, plain)) < 1e-10 < rounded
    kept = LayerResult(weights=dict(WEIGHTS), formats={name: FP32 for name in LINEARS})
    assert relative_error(*outputs(choices, kept)) == 0
    tiny = LayerResult(weights=dict(WEIGHTS), formats={name: W8A8_STATIC for name in LINEARS})
    clipped = [replace(choice, step=1e-12) for choice in choices]
    assert np.abs(outputs(clipped, tiny)[1]).max() < 1e-5
