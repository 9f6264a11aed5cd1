"""Blockwise rounding: against a slow plain one, and against what ONNX Runtime's kernels make of the bytes."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from inference_pio.graphs.quantize import QuantizeRows, quantize_blocks
from inference_pio.graphs.weights import Rows


def slowly(row: list[float], bits: int, block: int) -> tuple[list[int], list[float]]:
    """One row by the definition, number by number: levels in reading order, and a scale per block."""
    levels: list[int] = []
    scales: list[float] = []
    for start in range(0, len(row), block):
        values = row[start : start + block]
        values += [0.0] * (block - len(values))
        if bits == 8:
            scale = np.float32(max(abs(v) for v in values)) / np.float32(127)
        else:
            high, low = max(values), min(values)
            scale = np.float32(high if high > -low else low) / np.float32(-8)
        inverse = np.float32(1) / scale if scale else np.float32(0)
        zero, top = 2 ** (bits - 1), 2**bits - 1
        levels += [min(max(round(float(np.float32(v) * inverse)) + zero, 0), top) for v in values]
        scales.append(float(scale))
    return levels, scales


def unpack(data: np.ndarray, bits: int) -> np.ndarray:
    """Levels [N, blocks, block] of packed data."""
    if bits == 8:
        return data
    return np.stack([data & 15, data >> 4], axis=-1).reshape(*data.shape[:2], -1)


def dequantized(data: np.ndarray, scales: np.ndarray, bits: int, columns: int) -> np.ndarray:
    values = (unpack(data, bits).astype(np.float32) - np.float32(2 ** (bits - 1))) * scales[:, :, None]
    return values.reshape(len(data), -1)[:, :columns]


def weights(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, (rows, columns)).astype(np.float32)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("columns", "block"), [(64, 16), (64, 64), (40, 32), (33, 32), (1, 16), (129, 128), (31, 32)])
def test_equals_the_definition(bits, columns, block):
    array = weights(5, columns)
    data, scales = quantize_blocks(array, bits, block)
    assert data.shape == (5, -(-columns // block), block * bits // 8)
    assert (data.dtype, scales.dtype) == (np.uint8, np.float32)
    for row, levels, factors in zip(array.tolist(), unpack(data, bits), scales, strict=True):
        expected, expected_scales = slowly(row, bits, block)
        assert factors.tolist() == expected_scales
        assert levels.reshape(-1).tolist() == expected


@pytest.mark.parametrize("bits", [8, 4])
def test_nothing_is_further_off_than_half_a_step(bits):
    array = weights(20, 96)
    data, scales = quantize_blocks(array, bits, 32)
    error = np.abs(dequantized(data, scales, bits, 96) - array)
    steps = np.repeat(np.abs(scales), 32, axis=1)
    clipped = unpack(data, bits).reshape(20, -1) == 15 if bits == 4 else np.zeros(array.shape, bool)
    assert (error <= steps * np.where(clipped, 1.0, 0.5) * 1.0001).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_padding_is_zero_and_changes_no_scale(bits):
    array = weights(3, 40) + 5
    data, scales = quantize_blocks(array, bits, 32)
    assert (unpack(data, bits)[:, 1, 8:] == 2 ** (bits - 1)).all()
    alone, alone_scales = quantize_blocks(np.ascontiguousarray(array[:, 32:]), bits, 16)
    assert (scales[:, 1:] == alone_scales).all()
    assert (unpack(data, bits)[:, 1:, :8] == unpack(alone, bits)[:, :, :8]).all()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("tiny", [0.0, -0.0, 1e-45, -1e-42, 1e-39, 1e-37])
def test_blocks_of_zeros_and_of_almost_zeros_are_finite(bits, tiny):
    array = np.full((2, 32), tiny, np.float32)
    array[:, ::2] = 0
    with np.errstate(all="raise", under="ignore"):
        data, scales = quantize_blocks(array, bits, 16)
    values = dequantized(data, scales, bits, 32)
    assert np.isfinite(scales).all()
    assert np.abs(values - array).max() <= max(abs(tiny), 1e-36)
    assert (values[:, ::2] == 0).all()


@pytest.mark.parametrize("value", [3.0e38, -3.0e38])
@pytest.mark.parametrize("bits", [8, 4])
def test_the_largest_floats_do_not_overflow(bits, value):
    array = np.zeros((1, 16), np.float32)
    array[0, 5] = value
    data, scales = quantize_blocks(array, bits, 16)
    assert np.abs(dequantized(data, scales, bits, 16) / np.float32(3.0e38) - array / np.float32(3.0e38)).max() < 1e-5


@pytest.mark.parametrize("extreme", [-2.0, 2.0])
def test_the_largest_magnitude_is_kept_with_its_sign(extreme):
    array = np.linspace(-1, 1, 16, dtype=np.float32)[None].copy()
    array[0, 3] = extreme
    for bits, level in ((4, 0), (8, 128 + 127 * int(np.sign(extreme)))):
        data, scales = quantize_blocks(array, bits, 16)
        assert unpack(data, bits)[0, 0, 3] == level
        assert dequantized(data, scales, bits, 16)[0, 3] == pytest.approx(extreme, rel=1e-6)


def test_a_job_in_chunks_makes_the_same_bytes(monkeypatch):
    array = weights(37, 48)
    rows = Rows((("a", 20), ("b", 17)), (48,), lambda n, i, j: (array[:20] if n == "a" else array[20:])[i:j])
    job = QuantizeRows(rows, 4, 32)
    data, scales = quantize_blocks(array, 4, 32)
    for elements in (1, 48 * 7, 1 << 20):
        monkeypatch.setattr("inference_pio.graphs.weights.CHUNK_ELEMENTS", elements)
        pieces = [work() for work in job.pieces()]
        assert len(pieces) == {1: 37, 48 * 7: 6, 1 << 20: 1}[elements]
        assert b"".join(bytes(piece.data) for piece in pieces) == data.tobytes()
        assert b"".join(piece.side for piece in pieces) == scales.tobytes()


def run(op: str, inputs: dict[str, np.ndarray], weights: dict[str, np.ndarray], order: list[str], **attributes: int):
    """The output of a single node of ONNX Runtime's own domain."""
    types = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int64": TensorProto.INT64}
    node = helper.make_node(op, order, ["y"], domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(n, types[str(a.dtype)], a.shape) for n, a in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=12)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def product(array: np.ndarray, x: np.ndarray, bits: int, block: int, level: int) -> tuple[np.ndarray, np.ndarray]:
    """What MatMulNBits makes of `x` and quantized `array`, and the dequantized weights."""
    data, scales = quantize_blocks(array, bits, block)
    rows, columns = array.shape
    found = run(
        "MatMulNBits",
        {"x": x},
        {"data": data, "scales": scales},
        ["x", "data", "scales"],
        **{"K": columns, "N": rows, "bits": bits, "block_size": block, "accuracy_level": level},
    )
    return found, dequantized(data, scales, bits, columns)


SIZES = [(16, 64, 32), (7, 128, 128), (24, 40, 32), (5, 96, 16), (33, 33, 64)]


@pytest.mark.parametrize("positions", [1, 6])
@pytest.mark.parametrize(("rows", "columns", "block"), SIZES)
@pytest.mark.parametrize("bits", [8, 4])
def test_the_exact_kernel_multiplies_by_the_dequantized_weights(bits, rows, columns, block, positions):
    x = np.random.default_rng(1).normal(0, 1, (positions, columns)).astype(np.float32)
    found, values = product(weights(rows, columns), x, bits, block, level=0)
    assert np.abs(found - x @ values.T).max() < 1e-4


def rounded(x: np.ndarray, block: int) -> np.ndarray:
    """Activations rounded to int8 per row and block, max|x| -> 127."""
    columns = x.shape[1]
    blocks = np.pad(x, ((0, 0), (0, -columns % block))).reshape(len(x), -1, block)
    scales = np.abs(blocks).max(axis=2, keepdims=True) / np.float32(127)
    return (np.rint(blocks / np.where(scales == 0, 1, scales)) * scales).reshape(len(x), -1)[:, :columns]


@pytest.mark.parametrize("positions", [1, 6])
@pytest.mark.parametrize(("rows", "columns", "block"), SIZES)
@pytest.mark.parametrize("bits", [8, 4])
def test_the_fast_kernel_rounds_activations_and_nothing_else(bits, rows, columns, block, positions):
    x = np.random.default_rng(1).normal(0, 1, (positions, columns)).astype(np.float32)
    found, values = product(weights(rows, columns), x, bits, block, level=4)
    assert np.abs(found - rounded(x, block) @ values.T).max() < 1e-4
    step = np.abs(x).max() / 127
    assert np.abs(found - x @ values.T).max() <= 0.5 * step * np.abs(values).sum(axis=1).max()


@pytest.mark.parametrize(("columns", "block"), [(64, 32), (128, 128), (48, 16), (160, 32)])
@pytest.mark.parametrize("bits", [8, 4])
def test_looked_up_rows_are_the_dequantized_ones_bit_for_bit(bits, columns, block):
    data, scales = quantize_blocks(weights(11, columns), bits, block)
    ids = np.array([[0, 10, 3], [7, 7, 1]])
    found = run(
        "GatherBlockQuantized",
        {"ids": ids},
        {"data": data.reshape(11, -1), "scales": scales},
        ["data", "ids", "scales"],
        bits=bits,
        block_size=block,
        gather_axis=0,
        quantize_axis=1,
    )
    assert (found == dequantized(data, scales, bits, columns)[ids]).all()
