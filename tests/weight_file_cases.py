"""ONNX files of weights made by hand, in every form that an export can write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from inference_pio.verify.simulation import INTERLEAVED_KEY, SOURCES_KEY

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


EXPERTS = 3
HIDDEN = 32
INNER = 16
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
