"""One linear layer over random weights as the exporter lowers it to an integer product, and a session to run it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from inference_pio.graphs.blocks.linear import matmul_transposed
from inference_pio.graphs.builder import IR_VERSION, GraphBuilder
from inference_pio.graphs.calibrated import CalibratedLinear
from inference_pio.graphs.formats import W8A8, W8A8_STATIC
from inference_pio.graphs.rewrites import integer_kernels
from inference_pio.graphs.rewrites.rewrite import Kernels, LoweringContext, apply_rewrite, prune
from inference_pio.graphs.rounding import round_channels
from inference_pio.graphs.weights import Rows
from inference_pio.runtime.cpu import PRECISE_PRODUCTS, products_saturate

sys.path.insert(0, str(Path(__file__).parent))
from graph_cases import SPEC


@dataclass(frozen=True)
class Layer:
    """Linear layers of one input [N, K] float32 by tensor name, stacked; `step` None rounds per token."""

    weights: dict[str, np.ndarray]
    bias: np.ndarray | None = None
    step: float | None = None
    exact: tuple[int, ...] = ()

    @property
    def columns(self) -> int:
        return next(iter(self.weights.values())).shape[1]

    def linear(self, tensor: str) -> CalibratedLinear:
        """As a calibration hands it over."""
        rows_NK = self.weights[tensor].copy()
        kept = rows_NK[:, list(self.exact)]
        rows_NK[:, list(self.exact)] = 0
        codes, scales = round_channels(rows_NK, clip=False)
        return CalibratedLinear(lambda a, b: (codes[a:b], scales[a:b]), self.step, self.exact, kept)

    def dequantized(self) -> np.ndarray:
        """The weight float32 [N, K] that the integers and the exact columns stand for."""
        found = []
        for name in self.weights:
            linear = self.linear(name)
            codes, scales = linear.read(0, len(self.weights[name]))
            rows_NK = codes.astype(np.float32) * scales[:, None]
            rows_NK[:, list(self.exact)] = linear.exact
            found.append(rows_NK)
        return np.concatenate(found)


def save_layer(layer: Layer, folder: Path, probe: bool = False, fused: bool = True) -> Path:
    """Save a model x [M, K] -> y [M, N]; with `probe` what QuantizeLinear gives, u8 [M, K], is its output instead.

    Without `fused` as for targets whose products are signed and scaled afterwards; the probe is int8 then.
    """
    b = GraphBuilder()
    arrays = dict(layer.weights)
    parts = tuple((name, len(rows)) for name, rows in arrays.items())
    x = b.input("x", ir.DataType.FLOAT, ["tokens", layer.columns])
    y = matmul_transposed(b, x, b.weight("w", Rows(parts, (layer.columns,), lambda n, s, e: arrays[n][s:e])))
    if layer.bias is not None:
        arrays["bias"] = layer.bias
        rows = Rows((("bias", len(layer.bias)),), (), lambda n, s, e: arrays[n][s:e])
        y = b.op("Add", [y, b.weight("bias", rows)])
    b.output(y, "y", ir.DataType.FLOAT, ["tokens", sum(rows for _, rows in parts)])
    chosen = W8A8 if layer.step is None else W8A8_STATIC
    context = LoweringContext(SPEC, lambda _: chosen, SPEC.context_length, calibrated=layer)
    context = replace(context, kernels=Kernels(fused_products=fused))
    assert apply_rewrite(integer_kernels, b.graph, context, True).matches == 1
    if probe:
        quantize = next(node for node in b.graph if node.op_type == "QuantizeLinear")
        b.graph.outputs.clear()
        b.output(quantize.outputs[0], "y", ir.DataType.UINT8 if fused else ir.DataType.INT8, ["tokens", layer.columns])
    prune(b.graph)
    path = folder / ("probe.onnx" if probe else "layer.onnx")
    ir.save(ir.Model(b.graph, ir_version=IR_VERSION), path)
    return path


def run(path: Path, x_MK: np.ndarray, threads: int = 1) -> np.ndarray:
    """The model's output, by the engine's route."""
    return session(path, threads).run(None, {"x": x_MK})[0]


def session(path: Path, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    if products_saturate(ort):
        options.add_session_config_entry(PRECISE_PRODUCTS, "1")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def random_layer(columns: int, rows: tuple[int, ...] = (48, 16, 33), **more: object) -> Layer:
    """Random weights with names a, b, c ..., one for each of `rows`."""
    random = np.random.default_rng(columns)
    names = [chr(ord("a") + i) for i in range(len(rows))]
    weights = {
        name: random.standard_t(4, (count, columns)).astype(np.float32) for name, count in zip(names, rows, strict=True)
    }
    return Layer(weights, **more)  # type: ignore[arg-type]
