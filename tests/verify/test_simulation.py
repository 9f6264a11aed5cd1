"""Reading weights back from ONNX files made by hand, in every form that an export can write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir
import pytest

from inference_pio.errors import BadInputError
from inference_pio.verify.simulation import INTERLEAVED_KEY, SOURCES_KEY, ArtifactWeights
from inference_pio.verify.stored_rows import dequantize
from inference_pio.verify.weights import InputRounding

Sources = list[tuple[str, int]]
Arrays = list[np.ndarray] | list[tuple[np.ndarray, np.ndarray]]


class ModelFile:
    """Builds a graph of weights and the nodes that read them; it is only ever read, never run."""

    def __init__(self) -> None:
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": 24, "com.microsoft": 1}, name="weights")

    def weight(self, name: str, array: np.ndarray, sources: Sources | None) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        if sources is not None:
            tensor.metadata_props[SOURCES_KEY] = json.dumps(sources)
        value = ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
        self.graph.register_initializer(value)
        return value

    def node(self, op: str, inputs: list[ir.Value | None], domain: str = "", **attributes: int) -> ir.Value:
        node = ir.node(op, inputs, attributes, domain=domain)
        self.graph.append(node)
        return node.outputs[0]

    def matmul(
        self,
        name: str,
        data: np.ndarray,
        scales: np.ndarray,
        sources: Sources,
        columns: int,
        bits: int,
        block: int,
        level: int | None = 0,
    ) -> None:
        inputs = [None, self.weight(f"{name}.q", data, sources), self.weight(f"{name}.s", scales, sources)]
        attributes = dict(K=columns, N=data.shape[0], bits=bits, block_size=block)
        if level is not None:
            attributes["accuracy_level"] = level
        self.node("MatMulNBits", inputs, "com.microsoft", **attributes)

    def gather(self, name: str, data: np.ndarray, scales: np.ndarray, sources: Sources, bits: int, block: int) -> None:
        inputs = [self.weight(f"{name}.q", data, sources), None, self.weight(f"{name}.s", scales, sources)]
        attributes = dict(bits=bits, block_size=block, gather_axis=0, quantize_axis=data.ndim - 1)
        self.node("GatherBlockQuantized", inputs, "com.microsoft", **attributes)

    def experts(self, name: str, arrays: Arrays, sources: list[Sources], operator: str, **attributes: int) -> None:
        """`arrays` are weights (with scales) of gate and up, which take turns, and of down."""
        inputs: list[ir.Value | None] = [None, None]
        for number, (array, own) in enumerate(zip(arrays, sources, strict=True)):
            weight, *scales = array if isinstance(array, tuple) else (array,)
            inputs.append(self.weight(f"{name}.{number}", weight, own))
            if number == 0:
                inputs[-1].const_value.metadata_props[INTERLEAVED_KEY] = "2"  # type: ignore[union-attr]
            inputs += [self.weight(f"{name}.{number}.s", s, None) for s in scales] + [None]
        self.node(operator, inputs, "com.microsoft", **attributes)

    def save(self, folder: Path, external: bool = True) -> Path:
        if external:
            with (folder / "model.onnx.data").open("wb") as file:
                for value in self.graph.initializers.values():
                    value.const_value = _moved(value.const_value, file)
        path = folder / "model.onnx"
        ir.save(ir.Model(self.graph, ir_version=12), path)
        return path


def _moved(tensor: ir.TensorProtocol | None, file: BinaryIO) -> ir.ExternalTensor:
    assert tensor is not None
    file.write(b"gap" * 5)
    offset = file.tell()
    file.write(tensor.tobytes())
    return ir.ExternalTensor(
        "model.onnx.data",
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=tensor.shape,
        name=str(tensor.name),
        metadata_props=dict(tensor.metadata_props),
    )


Quantized = tuple[np.ndarray, np.ndarray, np.ndarray]


def quantized(rows: int, columns: int, bits: int, block: int, seed: int = 0) -> Quantized:
    """Random packed data [rows, blocks, bytes], scales [rows, blocks], and the values that they stand for."""
    rng = np.random.default_rng(seed)
    blocks = -(-columns // block)
    levels = rng.integers(0, 1 << bits, (rows, blocks, block)).astype(np.uint8)
    scales = rng.uniform(0.01, 0.1, (rows, blocks)).astype(np.float32)
    values = (levels.astype(np.float32) - (1 << (bits - 1))) * scales[:, :, None]
    packed = levels if bits == 8 else levels[:, :, 0::2] | (levels[:, :, 1::2] << 4)
    return packed, scales, values.reshape(rows, -1)[:, :columns]


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


EXPERTS, HIDDEN, INNER = 3, 32, 16
GATE_UP: Sources = [(f"{e}.{kind}", INNER) for e in range(EXPERTS) for kind in ("gate", "up")]
DOWN: Sources = [(f"{e}.down", HIDDEN) for e in range(EXPERTS)]


def quantized_experts(bits: int, block: int | None) -> tuple[Arrays, list[np.ndarray]]:
    """Weights and scales as the operator has them, and the values [E, N, K] that they stand for."""
    arrays, values = [], []
    for rows, columns in ((2 * INNER, HIDDEN), (HIDDEN, INNER)):
        packed, scales, value = quantized(EXPERTS * rows, columns, bits, block or columns, seed=columns)
        shape = (EXPERTS, rows, -1) if block else (EXPERTS, rows)
        arrays.append((packed.reshape(EXPERTS, rows, -1), scales.reshape(shape)))
        values.append(value.reshape(EXPERTS, rows, columns))
    return arrays, values


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


def test_weights_of_no_tensor_are_left_alone(tmp_path: Path) -> None:
    file = ModelFile()
    file.node("Mul", [None, file.weight("angles", np.ones(3, np.float32), None)])
    file.node("Mul", [None, file.weight("norm", np.ones(3, np.float32), [("norm", 3)])])
    weights = ArtifactWeights(file.save(tmp_path))
    assert weights.shape("angles") is None
    with pytest.raises(BadInputError, match="angles"):
        weights.rows("angles", 0, 3)


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


def test_four_bit_values_begin_in_the_low_half() -> None:
    packed = np.array([[0x10, 0xF8]], dtype=np.uint8)
    values = dequantize(packed, np.array([[2.0]], dtype=np.float32), bits=4, block=4, columns=3)
    assert values.tolist() == [[-16.0, -14.0, 0.0]]
