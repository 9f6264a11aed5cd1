"""Integer products are exact on CPUs with VNNI and, by the engine's route, on those with AVX2 alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from qemu import needs_haswell, run_haswell

from inference_pio.runtime import cpu

SCRIPT = str(Path(__file__).with_name("run_models.py"))
INNER, COLUMNS, ROWS = (160, 448), 48, (1, 64)
FORMS = ("s8", "7bit", "u8")


def products(inner: int, form: str) -> tuple[onnx.ModelProto, np.ndarray]:
    """x u8 [M, K] (zero point 128) times weights [K, N] of a form as ONNX, and the weights' whole numbers."""
    random = np.random.default_rng(inner)
    limit = 63 if form == "7bit" else 127
    weights = random.integers(-limit, limit, (inner, COLUMNS), endpoint=True)
    weights[:, ::5] = limit  # a column without signs: every pair of products saturates
    stored = (weights + 128).astype(np.uint8) if form == "u8" else weights.astype(np.int8)
    constants = {"weights": stored, "x_scale": np.float32(1), "scales": np.ones(COLUMNS, np.float32)}
    constants["x_zero"] = np.uint8(128)
    if form == "u8":
        constants["zeros"] = np.full(COLUMNS, 128, np.uint8)
    inputs = ["x", "weights", "x_scale", "scales", "x_zero", "zeros" if form == "u8" else ""]
    node = helper.make_node("MatMulIntegerToFloat", inputs, ["y"], domain="com.microsoft")
    return one_node(node, constants, TensorProto.UINT8, inner), weights


def blockwise(inner: int, bits: int) -> tuple[onnx.ModelProto, np.ndarray]:
    """x f32 [M, K] times weights in blocks of 32 of 4 or 8 bits (accuracy_level 4), and the weights' values."""
    random = np.random.default_rng(bits)
    middle = 1 << (bits - 1)
    codes = random.integers(1, 2 * middle, (COLUMNS, inner // 32, 32))
    codes[::5] = 2 * middle - 1
    packed = codes if bits == 8 else codes[..., 0::2] | codes[..., 1::2] << 4
    constants = {"codes": packed.astype(np.uint8), "scales": np.ones((COLUMNS, inner // 32), np.float32)}
    sizes = {"K": inner, "N": COLUMNS, "bits": bits, "block_size": 32, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft", **sizes)
    return one_node(node, constants, TensorProto.FLOAT, inner), codes.reshape(COLUMNS, inner).T - middle


def one_node(
    node: onnx.NodeProto, constants: dict[str, np.ndarray | np.generic], dtype: int, inner: int
) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("x", dtype, ["M", inner])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", COLUMNS])]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph([node], "products", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder of models with inputs, and every model's exact result."""
    folder = tmp_path_factory.mktemp("products")
    exact = {}
    for inner in INNER:
        cases = {form: products(inner, form) for form in FORMS} | {
            f"{bits}bit": blockwise(inner, bits) for bits in (4, 8)
        }
        for form, (model, weights) in cases.items():
            for rows in ROWS:
                name = f"{form}-{inner}-{rows}"
                x = np.random.default_rng(rows).integers(-127, 127, (rows, inner), endpoint=True)
                x[:, :64] = 127  # large values side by side, and 127 in every block: blocks round to themselves
                x[:, ::32] = 127
                exact[name] = x @ weights
                x = (x + 128).astype(np.uint8) if form in FORMS else x.astype(np.float32)
                np.savez(folder / f"{name}.npz", x=x)
                onnx.save(model, folder / f"{name}.onnx")
    return folder, exact


def run_native(arguments: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=timeout)


def wrong(
    run: Callable[[list[str], float], subprocess.CompletedProcess[str]],
    wanted: tuple[Path, dict[str, np.ndarray]],
    route: str,
) -> tuple[bool, set[str]]:
    """Whether the CPU of `run` saturates, and the models that do not give the exact result there."""
    folder, exact = wanted
    done = run([SCRIPT, str(folder), route], 120)
    assert done.returncode == 0, done.stderr
    found = {name: np.load(folder / f"{name}.{route}.npy") for name in exact}
    bad = {name for name, value in exact.items() if np.abs(found[name] - value).max() > 1e-6 * np.abs(value).max()}
    return json.loads(done.stdout)["saturate"], bad


def test_the_engines_route_is_exact_on_this_cpu(wanted):
    assert wrong(run_native, wanted, "engine")[1] == set()


@needs_haswell
def test_the_engines_route_is_exact_on_avx2_without_vnni(wanted):
    assert wrong(run_haswell, wanted, "engine") == (True, set())


@needs_haswell
def test_without_the_route_products_of_8_bit_weights_saturate_on_avx2_and_no_others(wanted):
    saturate, bad = wrong(run_haswell, wanted, "plain")
    assert saturate
    assert bad == {f"s8-{inner}-{rows}" for inner in INNER for rows in ROWS}


@pytest.mark.skipif(not cpu.cpu_flags(), reason="this system does not tell the CPU's flags")
def test_flags_and_kernels_of_this_cpu_agree():
    """Products saturate where u8 x s8 instructions add pairs of products in 16 bits; VNNI adds in 32."""
    if cpu.cpu_class(cpu.cpu_flags()) in ("avx512-vnni", "avx-vnni"):
        assert not cpu.products_saturate(onnxruntime)


def test_the_question_to_the_kernels_is_a_valid_model():
    model = onnx.load_from_string(cpu._PRODUCT_MODEL)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["MatMulInteger"]
