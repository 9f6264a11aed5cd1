"""Experts are calibrated on the tokens that the router sends them, and the layers behind them see what they add."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from routing_cases import COUNT, HIDDEN, WIDTH, small, tokens
from shapes import ALL_SHAPES, original, write_shape

from inference_pio.calibration.experts import calibrate_experts
from inference_pio.calibration.options import CalibrationOptions, Switches
from inference_pio.calibration.pipeline import calibrate
from inference_pio.calibration.routing import Experts
from inference_pio.calibration.text import read_calibration
from inference_pio.calibration.workspace import Workspace
from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import FP32, WeightFormat
from inference_pio.graphs.spec import Scoring

SAMPLES, LENGTH = 3, 24


def run(experts: Experts, x_TC: np.ndarray, chosen: WeightFormat | None, switches: Switches | None = None) -> Any:
    out_TC = np.zeros_like(x_TC)
    format_of = None if chosen is None else lambda name: chosen
    result = calibrate_experts(experts, x_TC, out_TC, 64, format_of, switches or Switches(), lambda expert: None)
    return result, out_TC


def expected(experts: Experts, arrays: dict[str, np.ndarray], x_TC: np.ndarray) -> np.ndarray:
    """Every expert on every token, mixed by the routes."""
    index_TK, weights_TK = experts.route(x_TC)
    out_TC = np.zeros_like(x_TC)
    for expert in range(COUNT):
        gate, up = x_TC @ arrays[f"{expert}.gate"].T, x_TC @ arrays[f"{expert}.up"].T
        y_TC = (gate / (1 + np.exp(-gate)) * up) @ arrays[f"{expert}.down"].T
        out_TC += np.where(index_TK == expert, weights_TK, 0).sum(axis=1, keepdims=True) * y_TC
    return out_TC


@pytest.mark.parametrize("scoring", Scoring)
@pytest.mark.parametrize("more", [{}, {"active": 1}, {"active": COUNT, "normalize": False}, {"scale": 1.8}])
def test_what_experts_add(scoring, more):
    experts, arrays = small(scoring, **more)
    x_TC = tokens()
    result, out_TC = run(experts, x_TC, None)
    np.testing.assert_allclose(out_TC, expected(experts, arrays, x_TC), atol=1e-5)
    assert sum(result.tokens) == len(x_TC) * experts.active
    assert not result.arrays and not result.linears and not result.found.any()


def test_rounded_experts_are_near_exact_ones_and_second_order_is_nearer():
    """On tokens whose channels go together, as those of models do."""
    experts, _ = small()
    x_TC = tokens(2000) @ np.random.default_rng(0).normal(0, np.linspace(0.03, 0.35, HIDDEN), (HIDDEN, HIDDEN))
    x_TC = x_TC.astype(np.float32)
    errors = {}
    for name, steps in (("plain", Switches(False, False, False, False, False)), ("all", Switches())):
        result, out_TC = run(experts, x_TC, WeightFormat(4), steps)
        errors[name] = float(np.square(result.found - out_TC[:64]).sum() / np.square(out_TC[:64]).sum())
        assert len(result.linears) == 3 * COUNT
    assert 0 < errors["all"] < 0.6 * errors["plain"] < 0.05


def test_an_expert_without_a_token_is_rounded_to_nearest():
    experts, arrays = small(Scoring.SIGMOID)
    arrays["bias"][1] = -100
    result, _ = run(experts, tokens(), WeightFormat(8))
    assert result.tokens[1] == 0 and all(result.tokens[e] for e in (0, 2, 3))
    assert set(result.arrays) >= {f"{e}.{kind}.codes" for e in range(COUNT) for kind in ("gate", "up", "down")}
    gate = result.arrays["1.gate.codes"].reshape(WIDTH, HIDDEN).astype(np.float32) - 128
    scales = result.arrays["1.gate.scales"]
    found = gate * np.repeat(scales, HIDDEN // scales.shape[1], axis=1)
    assert np.abs(found - arrays["1.gate"]).max() <= np.abs(arrays["1.gate"]).max() / 127


def test_float_experts_are_left_alone():
    result, out_TC = run(small()[0], tokens(), FP32)
    assert not result.arrays and not result.linears and out_TC.any()


def test_infinite_outputs_name_the_expert():
    experts, arrays = small()
    arrays["2.down"][:] = 3e38
    with pytest.raises(BadInputError, match=r"2\.gate.*NaN or infinite"):
        run(experts, tokens(), None)


@pytest.mark.parametrize("name", [name for name in ALL_SHAPES if "moe" in name])
def test_hidden_states_behind_experts_are_those_of_transformers(name, tmp_path, monkeypatch):
    monkeypatch.setattr(Workspace, "drop_hidden", lambda *_: None)
    kept: dict[str, np.ndarray] = {}
    finish = Workspace.finish

    def keep(work: Workspace, facts: dict[str, Any]) -> None:
        layers = ALL_SHAPES[name].get("num_hidden_layers", 3)
        size = model.config.hidden_size
        kept["last"] = work.hidden(layers, size)[:].reshape(SAMPLES, LENGTH, size)
        finish(work, facts)

    monkeypatch.setattr(Workspace, "finish", keep)
    checkpoint = write_shape(name, tmp_path / "checkpoint")
    model = original(checkpoint)
    options = CalibrationOptions(precision="int8-calibrated", text=Path(__file__), samples=SAMPLES, length=LENGTH)
    with calibrate(checkpoint, tmp_path / "out", options) as result:
        facts = result.facts
    text = read_calibration(options.text, checkpoint, SAMPLES, LENGTH, model.config.vocab_size)
    last: list[torch.Tensor] = []
    model.model.norm.register_forward_pre_hook(lambda module, args: last.append(args[0]))
    with torch.no_grad():
        model(torch.tensor(np.stack(text.samples)), use_cache=False)
    np.testing.assert_allclose(kept["last"], last[0].numpy(), atol=1e-4)
    active = ALL_SHAPES[name]["num_experts_per_tok"]
    assert facts["experts"]["tokens"]
    for seen in facts["experts"]["tokens"].values():
        assert sum(seen) == SAMPLES * LENGTH * active
