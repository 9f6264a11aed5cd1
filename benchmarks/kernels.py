"""What the machine and ONNX Runtime's CPU kernels reach: read bandwidth, and products by form and number of rows.

The limits that speeds are judged by. GOPS = 2 M K N / time; "cold" reads other weights at every call, as a decode step
does, and also gives their bandwidth.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from common import median, save, show
from onnx import TensorProto, helper, numpy_helper

ROWS = (1, 128, 512)
MICROSOFT = "com.microsoft"
Form = tuple[list[Any], list[np.ndarray]]
"""Nodes from `x` to `y`, and their initializers, in the order `w0`, `w1`, ..."""


def floats(k: int, n: int, rng: np.random.Generator) -> Form:
    """float32 weights."""
    return [helper.make_node("MatMul", ["x", "w0"], ["y"])], [rng.random((k, n), dtype=np.float32)]


def blocks(bits: int, block: int) -> Callable[[int, int, np.random.Generator], Form]:
    """MatMulNBits with int8 activations (accuracy level 4)."""

    def make(k: int, n: int, rng: np.random.Generator) -> Form:
        data = rng.integers(0, 256, (n, k // block, block * bits // 8), dtype=np.uint8)
        scales = rng.random((n, k // block), dtype=np.float32)
        attributes = {"K": k, "N": n, "bits": bits, "block_size": block, "accuracy_level": 4}
        node = helper.make_node("MatMulNBits", ["x", "w0", "w1"], ["y"], domain=MICROSOFT, **attributes)
        return [node], [data, scales]

    return make


def one_scale(k: int, n: int, rng: np.random.Generator) -> Form:
    """DynamicQuantizeMatMul: u8 x s8, one activation scale for all rows."""
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "w0", "w1"], ["y"], domain=MICROSOFT)
    return [node], [rng.integers(-127, 128, (k, n), dtype=np.int8), rng.random(n, dtype=np.float32)]


def per_token(k: int, n: int, rng: np.random.Generator) -> Form:
    """QuantizeLinear of rows divided by their largest magnitude, u8 x s8 product, output times that magnitude."""
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("ReduceMax", ["a", "w2"], ["m"], keepdims=1),
        helper.make_node("Div", ["x", "m"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "w3", "w4"], ["q"]),
        helper.make_node("MatMulIntegerToFloat", ["q", "w0", "w3", "w1", "w4"], ["p"], domain=MICROSOFT),
        helper.make_node("Mul", ["p", "m"], ["y"]),
    ]
    weights = [rng.integers(-127, 128, (k, n), dtype=np.int8), rng.random(n, dtype=np.float32)]
    return nodes, [*weights, np.array([1]), np.array(1 / 127, np.float32), np.array(128, np.uint8)]


FORMS = {
    "float32": floats,
    "MatMulNBits 8 bits, block 32": blocks(8, 32),
    "MatMulNBits 8 bits, block 128": blocks(8, 128),
    "MatMulNBits 4 bits, block 32": blocks(4, 32),
    "MatMulNBits 4 bits, block 128": blocks(4, 128),
    "u8 x s8, one scale for all rows": one_scale,
    "u8 x s8, exactly per row": per_token,
}


def session(name: str, k: int, n: int, threads: int, copies: int) -> tuple[Any, int]:
    """A session of `copies` products of one input with weights of their own, and the bytes of all weights."""
    nodes, weights = [], []
    for copy in range(copies):
        own, arrays = FORMS[name](k, n, np.random.default_rng(copy))
        for node in own:
            for names in (node.input, node.output):
                names[:] = [part if part == "x" else f"{part}_{copy}" for part in names]
        nodes += own
        weights += [numpy_helper.from_array(array, f"w{index}_{copy}") for index, array in enumerate(arrays)]
    outputs = [helper.make_tensor_value_info(f"y_{copy}", TensorProto.FLOAT, ["m", n]) for copy in range(copies)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", k])
    graph = helper.make_graph(nodes, "kernel", [x], outputs, weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    made = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return made, sum(numpy_helper.to_array(weight).nbytes for weight in weights)


def seconds(call: Callable[[], Any], repeat: int) -> float:
    """The median time of a call after a few to warm up."""
    times = []
    for index in range(repeat + 3):
        started = time.perf_counter()
        call()
        if index >= 3:
            times.append(time.perf_counter() - started)
    return median(times)


def bandwidth(threads: int, repeat: int) -> float:
    """Bytes per second that `threads` threads read together, from arrays larger than any cache."""
    parts = [np.ones(1 << 25, np.int64) for _ in range(threads)]

    def read() -> None:
        workers = [threading.Thread(target=part.max) for part in parts]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return sum(part.nbytes for part in parts) / seconds(read, repeat)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    k, n = options.shape
    row: dict[str, Any] = {"form": name}
    rng = np.random.default_rng(0)
    one, _ = session(name, k, n, options.threads, 1)
    for rows in ROWS:
        feed = {"x": rng.standard_normal((rows, k), dtype=np.float32)}
        row[f"gops_{rows}"] = 2e-9 * rows * k * n / seconds(lambda feed=feed: one.run(None, feed), options.repeat)

    many, size = session(name, k, n, options.threads, options.copies)
    feed = {"x": rng.standard_normal((1, k), dtype=np.float32)}
    cold = seconds(lambda: many.run(None, feed), options.repeat)
    return {**row, "gops_1_cold": 2e-9 * k * n * options.copies / cold, "cold_bytes_per_s": size / cold}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=2, default=(1024, 6144), metavar=("K", "N"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--copies", type=int, default=24, help="weights that take turns in the cold measurement")
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    options = parser.parse_args()
    read = bandwidth(options.threads, options.repeat)
    rows = [measure(name, options) for name in FORMS]
    whole = lambda value: f"{value:,.0f}"  # noqa: E731
    columns = {f"gops_{rows}": whole for rows in ROWS}
    show(rows, {"form": None, **columns, "gops_1_cold": whole, "cold_bytes_per_s": lambda v: f"{v / 1e9:.1f} GB/s"})
    print(f"read bandwidth, {options.threads} threads: {read / 1e9:.1f} GB/s")
    save(options.json, {"shape": options.shape, "threads": options.threads, "read_bytes_per_s": read, "forms": rows})


if __name__ == "__main__":
    main()
