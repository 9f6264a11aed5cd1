"""The simulation's integer products are the exported graph's: same codes, same weights, same results.

Models come out of the exporter's own rewrite and run on ONNX Runtime.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from inference_pio.errors import BadInputError
from inference_pio.verify.integer_products import read_product
from inference_pio.verify.reference import round_activations
from inference_pio.verify.simulation import SOURCES_KEY, ArtifactWeights
from inference_pio.verify.weights import InputRounding

sys.path.insert(0, str(Path(__file__).parents[1]))
from product_cases import random_layer, run, save_layer

STEPS = (None, 0.0371)
EXACT = ((), (3,), (0, 17, 158))


def product_of(path: Path) -> ir.Node:
    graph = ir.load(path).graph
    return next(node for node in graph if node.op_type in ("MatMulIntegerToFloat", "MatMulInteger"))


def activations(columns: int) -> np.ndarray:
    """Rows of usual size, of zeros, tiny, huge, with one huge value, and rows full of ties, float32 [M, K]."""
    random = np.random.default_rng(columns)
    x = random.standard_normal((600, columns)).astype(np.float32)
    x[300:] = random.integers(-254, 255, (300, columns)) / 2  # halves of 127ths of a row's largest
    x[300:, 0] = 127
    x[450:] *= random.uniform(0.01, 100, (150, 1)).astype(np.float32)
    x[0], x[1], x[2] = 0, x[1] * np.float32(1e-30), x[2] * np.float32(1e30)
    x[3, columns // 2] = 1e4
    return x


def codes(rounded: np.ndarray, x: np.ndarray, how: InputRounding) -> np.ndarray:
    """The integers behind rounded rows."""
    inner = x.copy()
    inner[:, list(how.exact)] = 0
    steps = np.abs(inner).max(axis=1, keepdims=True) / np.float32(127) if how.step is None else np.float32(how.step)
    found = np.divide(rounded, steps, out=np.zeros_like(rounded), where=steps > 0)
    found[:, list(how.exact)] = 0
    return np.rint(found)


@pytest.mark.parametrize("columns", [160, 449])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("exact", EXACT)
@pytest.mark.parametrize("fused", [True, False])
def test_every_code_is_the_kernels(
    tmp_path: Path, columns: int, step: float | None, exact: tuple[int, ...], fused: bool
) -> None:
    """Ties included: which side they fall to depends on the order of multiplications and divisions."""
    layer, x = random_layer(columns, step=step, exact=exact), activations(columns)
    how = read_product(product_of(save_layer(layer, tmp_path, fused=fused))).rounding
    assert how is not None
    kernel = run(save_layer(layer, tmp_path, probe=True, fused=fused), x).astype(np.int64) - (128 if fused else 0)
    found = codes(round_activations(torch.from_numpy(x), how).numpy(), x, how)
    alive = x.any(axis=1)  # a row of zeros has no codes: its product is multiplied by zero
    assert np.array_equal(found[alive], kernel[alive])


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("exact", EXACT)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("fused", [True, False])
def test_the_product_is_that_of_the_rounded_rows(
    tmp_path: Path, step: float | None, exact: tuple[int, ...], with_bias: bool, fused: bool
) -> None:
    bias = np.random.default_rng(1).standard_normal(97).astype(np.float32) if with_bias else None
    layer, x = random_layer(160, bias=bias, step=step, exact=exact), activations(160)
    path = save_layer(layer, tmp_path, fused=fused)
    product = read_product(product_of(path))
    assert product.rounding == InputRounding(None, None if step is None else float(np.float32(step)), exact)
    assert product.shape == (97, 160)
    weights = product.read(0, 97)
    assert weights.dtype == np.float32 and np.array_equal(weights, layer.dequantized())
    rounded = round_activations(torch.from_numpy(x), product.rounding).numpy().astype(np.float64)
    expected = rounded @ weights.T.astype(np.float64) + (0 if bias is None else bias)
    found = run(path, x)
    size = np.abs(rounded) @ np.abs(weights.T).astype(np.float64) + (0 if bias is None else np.abs(bias))
    assert (np.abs(found - expected) <= 1e-6 * size).all()
    plain = x.astype(np.float64) @ weights.T + (0 if bias is None else bias)
    assert (np.abs(found - plain) > 1e-4 * size).any()


def test_weights_are_read_by_rows(tmp_path: Path) -> None:
    layer = random_layer(160, exact=(5, 6))
    read = read_product(product_of(save_layer(layer, tmp_path))).read
    assert np.array_equal(read(40, 70), layer.dequantized()[40:70])
    assert read(97, 97).shape == (0, 160)


def test_packed_tensors_are_taken_apart_with_their_rounding(tmp_path: Path) -> None:
    layer = random_layer(160, exact=(5,), step=0.25)
    model = ir.load(save_layer(layer, tmp_path))
    codes = model.graph.initializers["w.columns"].const_value
    assert codes is not None
    codes.metadata_props[SOURCES_KEY] = json.dumps([["a", 48], ["b", 16], ["c", 33]])
    ir.save(model, tmp_path / "packed.onnx")
    weights = ArtifactWeights(tmp_path / "packed.onnx")
    assert [weights.shape(name) for name in "abc"] == [(48, 160), (16, 160), (33, 160)]
    assert np.array_equal(weights.rows("b", 2, 9), layer.dequantized()[50:57])
    assert weights.rounding == dict.fromkeys("abc", InputRounding(None, 0.25, (5,)))
    assert weights.rounds_activations


def test_a_sum_with_another_product_is_no_exact_column(tmp_path: Path) -> None:
    """A residual stream is added too, perhaps right behind a float product."""
    model = ir.load(save_layer(random_layer(160), tmp_path))
    graph = model.graph
    (y,) = graph.outputs
    other = ir.node("MatMul", [graph.inputs[0], graph.inputs[0]])
    graph.append(other)
    graph.append(ir.node("Add", [y, other.outputs[0]]))
    assert read_product(product_of_graph(graph)).rounding == InputRounding()


def test_other_forms_are_refused(tmp_path: Path) -> None:
    unscaled, shifted, bare = (ir.load(save_layer(random_layer(32), tmp_path)).graph for _ in range(3))
    product = product_of_graph(unscaled)
    unscaled.outputs[0] = product.outputs[0]
    for scaled in [node for node, _ in product.outputs[0].uses()]:
        unscaled.remove(scaled, safe=True)
    with pytest.raises(BadInputError, match="not scaled per row"):
        read_product(product)

    product = product_of_graph(shifted)
    zero = shifted.initializers[str(product.inputs[4].name)]  # type: ignore[union-attr]
    zero.const_value = ir.tensor(np.array(127, np.uint8), name=zero.name)
    with pytest.raises(BadInputError, match="of a form that the simulation does not know"):
        read_product(product)

    product = product_of_graph(bare)
    product.replace_input_with(0, bare.inputs[0])
    with pytest.raises(BadInputError, match="of a form that the simulation does not know"):
        read_product(product)


def product_of_graph(graph: ir.Graph) -> ir.Node:
    return next(node for node in graph if node.op_type in ("MatMulIntegerToFloat", "MatMulInteger"))
