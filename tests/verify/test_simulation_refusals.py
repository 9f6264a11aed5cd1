"""Weights in ONNX files that are not understood, or whose bytes are not there, are refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inference_pio.errors import BadInputError
from inference_pio.verify.simulation import ArtifactWeights

sys.path.insert(0, str(Path(__file__).parents[1]))
from weight_file_cases import DOWN, EXPERTS, GATE_UP, HIDDEN, INNER, ModelFile, quantized, quantized_experts


def duplicated(file: ModelFile) -> None:
    for name in ("a", "b"):
        file.node("Mul", [None, file.weight(name, np.ones(3, np.float32), [("norm", 3)])])


def with_missing_rows(file: ModelFile) -> None:
    file.node("Mul", [None, file.weight("a", np.ones(3, np.float32), [("norm", 2)])])


def without_sources(file: ModelFile) -> None:
    file.node("Mul", [None, file.weight("a", np.ones(3, np.float32), None)])


def with_odd_sources(file: ModelFile) -> None:
    file.node("Mul", [None, file.weight("a", np.ones(3, np.float32), [("norm",)])])  # type: ignore[list-item]


def with_zero_points(file: ModelFile) -> None:
    packed, scales, _ = quantized(2, 32, 8, 16)
    inputs = [
        None,
        file.weight("q", packed, [("w", 2)]),
        file.weight("s", scales, None),
        file.weight("z", scales, None),
    ]
    file.node("MatMulNBits", inputs, "com.microsoft", K=32, N=2, bits=8, block_size=16)


def with_short_scales(file: ModelFile) -> None:
    packed, scales, _ = quantized(2, 32, 8, 16)
    file.matmul("w", packed, scales[:, :1], [("w", 2)], 32, 8, 16)


def of_two_bits(file: ModelFile) -> None:
    packed, scales, _ = quantized(2, 32, 8, 16)
    file.matmul("w", packed, scales, [("w", 2)], 32, 2, 16)


def without_block_size(file: ModelFile) -> None:
    packed, scales, _ = quantized(2, 32, 8, 16)
    inputs = [None, file.weight("q", packed, [("w", 2)]), file.weight("s", scales, None)]
    file.node("MatMulNBits", inputs, "com.microsoft", K=32, N=2, bits=8)


def experts_with_short_scales(file: ModelFile) -> None:
    arrays, _ = quantized_experts(8, 16)
    arrays[1] = (arrays[1][0], arrays[1][1][:, 1:])
    file.experts("moe", arrays, [GATE_UP, DOWN], "QMoE", expert_weight_bits=8, block_size=16)


def experts_with_zero_points(file: ModelFile) -> None:
    file.experts("moe", quantized_experts(8, 16)[0], [GATE_UP, DOWN], "QMoE", expert_weight_bits=8, block_size=16)
    node = file.graph[-1]
    node.resize_inputs(12)
    node.replace_input_with(11, file.weight("z", np.zeros((3, 32, 2), np.uint8), None))


def experts_of_two_bits(file: ModelFile) -> None:
    file.experts("moe", quantized_experts(8, 16)[0], [GATE_UP, DOWN], "QMoE", expert_weight_bits=2, block_size=16)


def experts_in_a_row(file: ModelFile) -> None:
    flat = [np.ones((EXPERTS * 2 * INNER, HIDDEN), np.float32), np.ones((EXPERTS * HIDDEN, INNER), np.float32)]
    file.experts("moe", flat, [GATE_UP, DOWN], "MoE")


@pytest.mark.parametrize(
    "build",
    [
        experts_with_short_scales,
        experts_with_zero_points,
        experts_of_two_bits,
        experts_in_a_row,
        duplicated,
        with_missing_rows,
        without_sources,
        with_odd_sources,
        with_zero_points,
        with_short_scales,
        of_two_bits,
        without_block_size,
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, build: Callable[[ModelFile], None]) -> None:
    file = ModelFile()
    build(file)
    with pytest.raises(BadInputError):
        ArtifactWeights(file.save(tmp_path))


@pytest.mark.parametrize("content", [None, b"", b"not a model", b"\x08\x0c\x3a\xff"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInputError, match=r"model\.onnx"):
        ArtifactWeights(path)


def test_a_data_file_that_is_short_missing_or_outside_is_refused(tmp_path: Path) -> None:
    packed, scales, _ = quantized(4, 32, 8, 16)
    file = ModelFile()
    file.matmul("w", packed, scales, [("w", 4)], 32, 8, 16)
    path = file.save(tmp_path)
    weights = ArtifactWeights(path)
    data = tmp_path / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(BadInputError, match="ends inside"):
        weights.rows("w", 0, 4)
    data.unlink()
    with pytest.raises(BadInputError, match="cannot be read"):
        weights.rows("w", 0, 4)
    elsewhere = tmp_path.parent / "elsewhere"
    elsewhere.write_bytes(b"0" * 4096)
    data.symlink_to(elsewhere)
    with pytest.raises(BadInputError, match="outside"):
        weights.rows("w", 0, 4)
