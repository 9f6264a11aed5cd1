"""Weights in blocks: the same bytes in any chunks, and what ONNX Runtime's kernels make of them."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from inference_pio.graphs.quantize import QuantizeRows
from inference_pio.graphs.rounding import dequantize_blocks, round_blocks
from inference_pio.graphs.weights import Rows


def weights(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, (rows, columns)).astype(np.float32)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_job_in_chunks_makes_the_same_bytes(bits, monkeypatch):
    """Four bits search their scales, eight do not."""
    array = weights(37, 48)
    rows = Rows((("a", 20), ("b", 17)), (48,), lambda n, i, j: (array[:20] if n == "a" else array[20:])[i:j])
    job = QuantizeRows(rows, bits, 32)
    data, scales = round_blocks(array, bits, 32, clip=bits == 4)
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
    data, scales = round_blocks(array, bits, block, clip=False)
    rows, columns = array.shape
    found = run(
        "MatMulNBits",
        {"x": x},
        {"data": data, "scales": scales},
        ["x", "data", "scales"],
        **{"K": columns, "N": rows, "bits": bits, "block_size": block, "accuracy_level": level},
    )
    return found, dequantize_blocks(data, scales, bits, columns)


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
    data, scales = round_blocks(weights(11, columns), bits, block, clip=False)
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
    assert (found == dequantize_blocks(data, scales, bits, columns)[ids]).all()
