"""The operators for experts, form by form: error against the weights that are stored, time at one token and at many.

One layer, every call with other tokens, so that other experts are read: what decoding and prefill do. The error is the
largest one as a share of the largest output, and rounding of the weights is no part of it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from common import median, save, show
from onnx import TensorProto, helper, numpy_helper

from inference_pio.graphs.rounding import dequantize_blocks, round_blocks

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Form:
    """Bits of the weights (32: operator MoE), block (None: a row), and QMoE's accuracy level."""

    bits: int
    block: int | None = None
    level: int = 0

    def __str__(self) -> str:
        if self.bits == 32:
            return "float32"
        return f"{self.bits} bits, {f'block {self.block}' if self.block else 'one scale per row'}, level {self.level}"


FORMS = (Form(32), Form(8, 128), Form(8, 32), Form(8), Form(4, 128), Form(4, 128, 4), Form(4, 32, 4))


@dataclass(frozen=True)
class Layer:
    """Random experts: router [C, E], gate and up in turn [E * 2 F, C], down [E * C, F]."""

    router: np.ndarray
    gate_up: np.ndarray
    down: np.ndarray
    active: int

    @classmethod
    def random(cls, experts: int, hidden: int, width: int, active: int) -> Layer:
        rng = np.random.default_rng(0)
        sizes = (hidden, experts), (experts * 2 * width, hidden), (experts * hidden, width)
        return cls(*(rng.standard_normal(size, dtype=np.float32) * np.float32(0.03) for size in sizes), active)

    def run(self, x_TC: np.ndarray) -> np.ndarray:
        """What the layer gives, token by token."""
        experts, hidden = self.router.shape[1], x_TC.shape[1]
        gate_up = self.gate_up.reshape(experts, -1, hidden)
        down = self.down.reshape(experts, hidden, -1)
        y_TC = np.zeros(x_TC.shape)
        for token, logits in enumerate(x_TC @ self.router):
            chosen = np.argsort(-logits)[: self.active]
            shares = np.exp(logits[chosen] - logits.max())
            for expert, share in zip(chosen, shares / shares.sum(), strict=True):
                both = gate_up[expert] @ x_TC[token]
                y_TC[token] += share * (down[expert] @ (both[0::2] / (1 + np.exp(-both[0::2])) * both[1::2]))
        return y_TC


def stored(rows_NK: np.ndarray, form: Form) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bytes [N, K * bits / 8], scales [N, blocks], and the values that they stand for."""
    data, scales = round_blocks(rows_NK, form.bits, form.block or rows_NK.shape[1], clip=form.bits == 4)
    values = dequantize_blocks(data, scales, form.bits, rows_NK.shape[1])
    return data.reshape(len(data), -1), scales, values


def session(layer: Layer, form: Form, threads: int, folder: Path) -> tuple[Any, Layer]:
    """A session of the layer in this form, and the layer with the weights that it holds."""
    experts, held = layer.router.shape[1], layer
    weights, inputs, more = {"router": layer.router}, ["x", "logits"], {}
    if form.bits == 32:
        weights |= {n: w.reshape(experts, -1, w.shape[1]) for n, w in (("a", layer.gate_up), ("b", layer.down))}
        inputs += ["a", "", "b"]
    else:
        values = []
        for name, rows in (("a", layer.gate_up), ("b", layer.down)):
            data, scales, value = stored(rows, form)
            weights[name] = data.reshape(experts, -1, data.shape[1])
            weights[f"{name}s"] = scales.reshape((experts, -1, scales.shape[1]) if form.block else (experts, -1))
            inputs += [name, f"{name}s", ""]
            values.append(value)
        held = Layer(layer.router, *values, layer.active)
        more = {"expert_weight_bits": form.bits, "accuracy_level": form.level}
        more |= {"block_size": form.block} if form.block else {}
    common = {"k": layer.active, "activation_type": "swiglu", "swiglu_fusion": 1, "normalize_routing_weights": 1}
    operator = "MoE" if form.bits == 32 else "QMoE"
    nodes = [
        helper.make_node("MatMul", ["x", "router"], ["logits"]),
        helper.make_node(operator, inputs, ["y"], domain=MICROSOFT, **common, **more),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["t", layer.router.shape[0]]) for n in "xy"]
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "experts", values[:1], values[1:], initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    path = folder / f"{form}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path, save_as_external_data=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]), held


def measure(layer: Layer, form: Form, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    made, held = session(layer, form, options.threads, folder)
    row: dict[str, Any] = {"form": str(form)}
    rng = np.random.default_rng(1)
    for tokens in (1, options.tokens):
        times = []
        for index in range(options.repeat + 2):
            x_TC = rng.standard_normal((tokens, layer.router.shape[0]), dtype=np.float32)
            started = time.perf_counter()
            found = made.run(None, {"x": x_TC})[0]
            times.append(time.perf_counter() - started)
            if index == 0:
                expected = held.run(x_TC)
                row[f"error_{tokens}"] = float(np.abs(found - expected).max() / np.abs(expected).max())
        row[f"ms_{tokens}"] = 1e3 * median(times[2:])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=4, default=(64, 2048, 768, 8), metavar=("EXPERTS", "C", "F", "K"))
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    options = parser.parse_args()
    layer = Layer.random(*options.shape)
    rows = []
    for form in FORMS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(layer, form, options, Path(folder)))
    error, milliseconds = (lambda value: f"{value:.1e}"), (lambda value: f"{value:.2f}")
    columns = {
        f"{name}_{n}": how for n in (1, options.tokens) for name, how in (("error", error), ("ms", milliseconds))
    }
    show(rows, {"form": None, **columns})
    save(options.json, {"shape": options.shape, "threads": options.threads, "forms": rows})


if __name__ == "__main__":
    main()
