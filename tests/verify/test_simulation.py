"""Reading weights back from ONNX files made by hand, in every form that an export can write."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from inference_pio.errors import BadInputError
from inference_pio.verify.simulation import ArtifactWeights
from inference_pio.verify.stored_rows import dequantize
from inference_pio.verify.weights import InputRounding

sys.path.insert(0, str(Path(__file__).parents[1]))
from weight_file_cases import ModelFile, quantized


@pytest.mark.parametrize("external", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("columns", "block"), [(64, 32), (48, 32), (16, 16), (17, 32), (1, 16)])
@pytest.mark.parametrize("flat", [True, False])
def test_linear_layers(tmp_path: Path, external: bool, bits: int, columns: int, block: int, flat: bool) -> None:
    packed, scales, values = quantized(5, columns, bits, block)
    file = ModelFile()
    file.matmul("w", packed, scales.reshape(-1) if flat else scales, [("a.weight", 5)], columns, bits, block)
    weights = ArtifactWeights(file.save(tmp_path, external))
    assert weights.shape("a.weight") == (5, columns)
    assert (weights.rows("a.weight", 0, 5) == values).all()
    assert (weights.rows("a.weight", 2, 4) == values[2:4]).all()


def test_stacked_layers_are_taken_apart(tmp_path: Path) -> None:
    packed, scales, values = quantized(9, 32, 4, 16)
    file = ModelFile()
    file.matmul("qkv", packed, scales, [("q", 4), ("k", 2), ("v", 3)], 32, 4, 16)
    weights = ArtifactWeights(file.save(tmp_path))
    assert [weights.shape(name) for name in "qkv"] == [(4, 32), (2, 32), (3, 32)]
    assert (weights.rows("k", 0, 2) == values[4:6]).all()
    assert (weights.rows("v", 1, 3) == values[7:9]).all()


def test_only_kernels_of_accuracy_level_4_round_activations(tmp_path: Path) -> None:
    file = ModelFile()
    for name, level in (("exact", 0), ("unset", None), ("rounding", 4)):
        packed, scales, _ = quantized(2, 32, 8, 16)
        file.matmul(name, packed, scales, [(name, 2)], 32, 8, 16, level)
    weights = ArtifactWeights(file.save(tmp_path))
    assert weights.rounding == {"rounding": InputRounding(16)}
    found = [weights.input_rounding(name) for name in ("exact", "unset", "rounding", "other")]
    assert found == [None, None, InputRounding(16), None]
    assert weights.rounds_activations


@pytest.mark.parametrize(("bits", "three_axes"), [(4, False), (8, False), (8, True)])
def test_tables(tmp_path: Path, bits: int, three_axes: bool) -> None:
    packed, scales, values = quantized(6, 64, bits, 32)
    file = ModelFile()
    data = packed.reshape(6, 1, 64) if three_axes else packed.reshape(6, -1)
    file.gather("table", data, scales.reshape(6, 1, 2) if three_axes else scales, [("embed", 6)], bits, 32)
    weights = ArtifactWeights(file.save(tmp_path))
    assert (weights.embedding_rows("embed", np.array([0, 3, 5])) == values[[0, 3, 5]]).all()
    assert not weights.rounds_activations


def test_a_tied_table_and_head_keep_their_own_values(tmp_path: Path) -> None:
    packed8, scales8, values8 = quantized(6, 32, 8, 16, seed=1)
    packed4, scales4, values4 = quantized(6, 32, 4, 16, seed=2)
    file = ModelFile()
    file.gather("table", packed8.reshape(6, 32), scales8, [("embed", 6)], 8, 16)
    file.matmul("head", packed4, scales4, [("embed", 6)], 32, 4, 16, level=4)
    weights = ArtifactWeights(file.save(tmp_path))
    assert (weights.embedding_rows("embed", np.array([4])) == values8[[4]]).all()
    assert (weights.rows("embed", 0, 6) == values4).all()
    assert weights.input_rounding("embed") == InputRounding(16)


def test_one_table_that_serves_as_head_too(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    file = ModelFile()
    table = file.weight("embed", values, [("embed", 4)])
    file.node("Gather", [table, None], axis=0)
    file.node("MatMul", [None, file.node("Transpose", [table])])
    weights = ArtifactWeights(file.save(tmp_path))
    assert (weights.rows("embed", 1, 3) == values[1:3]).all()
    assert (weights.embedding_rows("embed", np.array([2])) == values[[2]]).all()


def test_float16_is_widened(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float16)
    file = ModelFile()
    file.node("MatMul", [None, file.node("Cast", [file.weight("w", values, [("w", 4)])], to=1)])
    table = file.weight("t", values, [("table", 4)])
    file.node("Gather", [file.node("Cast", [table], to=1), None], axis=0)
    file.node("RMSNormalization", [None, file.weight("n", np.ones(8, np.float32), [("norm", 8)])])
    weights = ArtifactWeights(file.save(tmp_path))
    assert weights.rows("w", 0, 4).dtype == np.float32
    assert (weights.rows("w", 0, 4) == values.astype(np.float32)).all()
    assert (weights.embedding_rows("table", np.array([1, 3])) == values[[1, 3]].astype(np.float32)).all()
    assert weights.shape("norm") == (8,)


def test_weights_of_no_tensor_are_left_alone(tmp_path: Path) -> None:
    file = ModelFile()
    file.node("Mul", [None, file.weight("angles", np.ones(3, np.float32), None)])
    file.node("Mul", [None, file.weight("norm", np.ones(3, np.float32), [("norm", 3)])])
    weights = ArtifactWeights(file.save(tmp_path))
    assert weights.shape("angles") is None
    with pytest.raises(BadInputError, match="angles"):
        weights.rows("angles", 0, 3)


def test_four_bit_values_begin_in_the_low_half() -> None:
    packed = np.array([[0x10, 0xF8]], dtype=np.uint8)
    values = dequantize(packed, np.array([[2.0]], dtype=np.float32), bits=4, block=4, columns=3)
    assert values.tolist() == [[-16.0, -14.0, 0.0]]
