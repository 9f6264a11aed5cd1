"""Reading the weights of experts back from ONNX files made by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from inference_pio.errors import BadInputError
from inference_pio.verify.simulation import INTERLEAVED_KEY, ArtifactWeights
from inference_pio.verify.weights import InputRounding

sys.path.insert(0, str(Path(__file__).parents[1]))
from weight_file_cases import DOWN, EXPERTS, GATE_UP, HIDDEN, INNER, ModelFile, quantized_experts


def assert_experts(weights: ArtifactWeights, gate_up: np.ndarray, down: np.ndarray) -> None:
    for expert in range(EXPERTS):
        for kind, expected in (("gate", gate_up[expert, 0::2]), ("up", gate_up[expert, 1::2]), ("down", down[expert])):
            name, count = f"{expert}.{kind}", len(expected)
            assert weights.shape(name) == expected.shape
            assert (weights.rows(name, 0, count) == expected).all()
            assert (weights.rows(name, 3, count - 2) == expected[3:-2]).all()
            assert (weights.rows(name, count - 1, count) == expected[-1:]).all()


@pytest.mark.parametrize("external", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [16, None])
def test_quantized_experts(tmp_path: Path, external: bool, bits: int, block: int | None) -> None:
    arrays, values = quantized_experts(bits, block)
    file = ModelFile()
    size = {} if block is None else {"block_size": block}
    file.experts("moe", arrays, [GATE_UP, DOWN], "QMoE", expert_weight_bits=bits, **size)
    weights = ArtifactWeights(file.save(tmp_path, external))
    assert_experts(weights, *values)
    rounds = block is not None and bits == 8  # four bits do at accuracy level 4
    assert weights.input_rounding("1.gate") == (InputRounding(16) if rounds else None)
    assert weights.input_rounding("2.down") == (InputRounding(16) if rounds else None)


@pytest.mark.parametrize(("level", "rounds"), [(0, False), (4, True)])
def test_four_bit_experts_round_activations_at_level_4(tmp_path: Path, level: int, rounds: bool) -> None:
    file = ModelFile()
    attributes = dict(expert_weight_bits=4, block_size=16, accuracy_level=level)
    file.experts("moe", quantized_experts(4, 16)[0], [GATE_UP, DOWN], "QMoE", **attributes)
    assert ArtifactWeights(file.save(tmp_path)).rounds_activations == rounds


@pytest.mark.parametrize("half", [False, True])
def test_float_experts(tmp_path: Path, half: bool) -> None:
    rng = np.random.default_rng(0)
    shapes = ((EXPERTS, 2 * INNER, HIDDEN), (EXPERTS, HIDDEN, INNER))
    values = [rng.normal(size=shape).astype(np.float16 if half else np.float32) for shape in shapes]
    file = ModelFile()
    if half:
        weights = [file.weight(name, a, own) for name, a, own in zip("ab", values, (GATE_UP, DOWN), strict=True)]
        weights[0].const_value.metadata_props[INTERLEAVED_KEY] = "2"
        wide = [file.node("Cast", [weight], to=1) for weight in weights]
        file.node("MoE", [None, None, wide[0], None, wide[1]], "com.microsoft")
    else:
        file.experts("moe", values, [GATE_UP, DOWN], "MoE")
    assert_experts(ArtifactWeights(file.save(tmp_path)), *(value.astype(np.float32) for value in values))


@pytest.mark.parametrize("turns", ["0", "-1", "4", "two", "", "10" * 30])
def test_turns_that_cannot_be_are_refused(tmp_path: Path, turns: str) -> None:
    file = ModelFile()
    weight = file.weight("w", np.ones((12, 4), np.float32), [("a", 4), ("b", 4), ("c", 4)])
    weight.const_value.metadata_props[INTERLEAVED_KEY] = turns
    file.node("MatMul", [None, weight])
    with pytest.raises(BadInputError, match="interleaved"):
        ArtifactWeights(file.save(tmp_path))


def test_turns_of_different_lengths_are_refused(tmp_path: Path) -> None:
    file = ModelFile()
    weight = file.weight("w", np.ones((12, 4), np.float32), [("a", 4), ("b", 8)])
    weight.const_value.metadata_props[INTERLEAVED_KEY] = "2"
    file.node("MatMul", [None, weight])
    with pytest.raises(BadInputError, match="interleaved"):
        ArtifactWeights(file.save(tmp_path))
