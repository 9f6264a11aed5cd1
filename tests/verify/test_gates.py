"""Gates: the shipped numbers, the verdict at and beyond every bound, and files of one's own."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference_pio.errors import BadInputError
from inference_pio.verify.gates import Excess, gate_for_recipe, load_gate
from inference_pio.verify.metrics import Metrics

PERFECT = Metrics(
    kl_mean=0.0,
    kl_p99=0.0,
    kl_max=0.0,
    top1_agreement=1.0,
    top1_agreement_clear=1.0,
    top5_agreement=1.0,
    perplexity=10.0,
    reference_perplexity=10.0,
    perplexity_ratio=1.0,
    max_logit_difference=0.0,
    positions=100,
    clear_positions=90,
)

PUBLISHED = {
    "fp32": (1e-6, "top1_agreement_clear", 0.9999, 1.0001),
    "fp16": (1e-3, "top1_agreement", 0.995, 1.001),
    "int8": (3e-3, "top1_agreement", 0.985, 1.003),
    "w8a8": (1e-2, "top1_agreement", 0.97, 1.01),
    "w8a8-static": (3e-2, "top1_agreement", 0.95, 1.03),
    "int4": (3.5e-2, "top1_agreement", 0.92, 1.03),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_shipped_gates_have_the_documented_bounds(name: str) -> None:
    kl, agreement, share, ratio = PUBLISHED[name]
    assert load_gate(name).absolute == {"kl_mean": kl, agreement: share, "perplexity_ratio": ratio}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_bound_holds_at_its_value_and_fails_just_beyond(name: str) -> None:
    gate = load_gate(name)
    at_bound = replace(PERFECT, **gate.absolute)
    assert gate.check(at_bound).passed
    for metric, bound in gate.absolute.items():
        beyond = bound * (1 - 1e-9) if "agreement" in metric else bound * (1 + 1e-9)
        result = gate.check(replace(at_bound, **{metric: beyond}))
        assert not result.passed
        assert len(result.failures) == 1
        assert metric in result.failures[0]


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_figure_that_is_unknown_or_not_finite_fails(value: float | None) -> None:
    result = load_gate("int8").check(replace(PERFECT, kl_mean=value))
    assert not result.passed
    assert "kl_mean" in result.failures[0]


def test_small_models_are_judged_away_from_near_ties() -> None:
    gate = load_gate("int8")
    flat = replace(PERFECT, top1_agreement=0.9)
    assert not gate.for_model(100_000_000).check(flat).passed
    assert gate.for_model(99_999_999).check(flat).passed
    assert not gate.for_model(99_999_999).check(replace(flat, top1_agreement_clear=0.98)).passed
    assert not gate.for_model(99_999_999).check(replace(flat, top1_agreement_clear=None)).passed


@pytest.mark.parametrize("twin", [1e-6, None])
def test_an_artifact_much_worse_than_its_simulation_fails(twin: float | None) -> None:
    gate = load_gate("int8")
    excess = Excess(1e-4, 1e-6, 1e-4, twin)
    assert gate.check(replace(PERFECT, kl_mean=1.2e-4 + 1e-6), excess).passed
    failed = gate.check(replace(PERFECT, kl_mean=1.22e-4), excess)
    assert not failed.passed
    assert "against simulation" in failed.failures[0]


def test_agreement_with_the_simulation_depends_on_the_kernel() -> None:
    gate = load_gate("int8")
    exact = Excess(1e-4, 1.0, 1e-3, twin_kl_mean=None)
    assert gate.check(PERFECT, exact).passed
    assert not gate.check(PERFECT, replace(exact, agreement_max_logit_difference=1.01e-3)).passed
    rounding = Excess(1e-4, 5e-5, 1.0, twin_kl_mean=1e-6)
    assert gate.check(PERFECT, rounding).passed
    assert not gate.check(PERFECT, replace(rounding, agreement_kl_mean=5.1e-5)).passed
    chaotic = replace(rounding, twin_kl_mean=2e-4, agreement_kl_mean=3e-4)
    assert gate.check(PERFECT, chaotic).passed
    assert not gate.check(PERFECT, replace(chaotic, agreement_kl_mean=3.01e-4)).passed


def test_sixteen_bits_may_be_as_far_as_a_twin_that_is_rounded_alike() -> None:
    gate = load_gate("int8")
    half, brain = (gate.with_compute(dtype, ["fp16", "fp32"]) for dtype in ("float16", "bfloat16"))
    assert gate.with_compute("float32", ["fp16"]) == gate
    assert gate.excess.disturbance < half.excess.disturbance < brain.excess.disturbance
    excess = Excess(1e-8, 4e-5, 0.02, twin_kl_mean=1e-4)
    assert half.check(replace(PERFECT, kl_mean=1.5e-4), excess).passed
    assert not half.check(replace(PERFECT, kl_mean=1.52e-4), excess).passed
    assert not gate.check(replace(PERFECT, kl_mean=2e-6), excess).passed
    rounded = gate.with_compute("float16", ["fp16", "int8-b32"])
    assert rounded.excess.disturbance == half.excess.disturbance
    assert not rounded.check(replace(PERFECT, kl_mean=2e-6), excess).passed


def test_recipes_find_their_gate() -> None:
    assert gate_for_recipe("int8-calibrated").name == "int8"
    assert gate_for_recipe("mine", ["fp32", "int8-block32", "int4-exact-block16"]).name == "int4"
    assert gate_for_recipe("mine", ["w8a8-static", "int8"]).name == "w8a8-static"
    assert gate_for_recipe("mine", ["fp16", "w8a8", "int8"]).name == "w8a8"
    assert gate_for_recipe("mine", ["fp16"]).name == "fp16"
    with pytest.raises(BadInputError, match="mine"):
        gate_for_recipe("mine", ["ternary"])


def test_a_gate_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "strict.json"
    path.write_text(json.dumps({"absolute": {"kl_max": 0.5, "top5_agreement": 0.9}, "excess": {"factor": 1.05}}))
    gate = load_gate(path)
    assert (gate.name, gate.clear_gap, gate.small_model_parameters) == ("strict", 0, 0)
    assert gate.excess.factor == 1.05
    assert gate.excess.floor == load_gate("int8").excess.floor
    assert gate.check(replace(PERFECT, top1_agreement=0.1)).passed
    assert not gate.check(replace(PERFECT, kl_max=0.51)).passed


BAD_FILES: dict[str, Any] = {
    "a list": [],
    "no bounds": {},
    "empty bounds": {"absolute": {}},
    "bounds of another type": {"absolute": [1]},
    "an unknown key": {"absolute": {"kl_mean": 1}, "kl_mean": 1},
    "an unknown metric": {"absolute": {"kl_median": 1}},
    "a text as bound": {"absolute": {"kl_mean": "1e-3"}},
    "a truth value as bound": {"absolute": {"kl_mean": True}},
    "null as bound": {"absolute": {"kl_mean": None}},
    "a negative bound": {"absolute": {"kl_mean": -1}},
    "an endless number": {"absolute": {"kl_mean": 10**400}},
    "an unknown excess key": {"absolute": {"kl_mean": 1}, "excess": {"faktor": 1}},
    "excess of another type": {"absolute": {"kl_mean": 1}, "excess": 1.2},
    "a name that is no text": {"absolute": {"kl_mean": 1}, "name": 5},
    "a gap that is no number": {"absolute": {"kl_mean": 1}, "clear_gap": [0.1]},
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_gate_file_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "gate.json"
    path.write_text(json.dumps(BAD_FILES[what]))
    with pytest.raises(BadInputError, match="gate"):
        load_gate(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"absolute": {"kl_mean": NaN}}', b'{"absolute": {"kl_mean": Infinity}}', b"\xff\xfe", b"[" * 9999],
)
def test_a_file_that_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "gate.json"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match="not valid JSON"):
        load_gate(path)


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"int9.*fp32, fp16, bf16, int8"):
        load_gate("int9")
    with pytest.raises(BadInputError, match="neither a gate"):
        load_gate(tmp_path)
