"""Float16 for products, attention and cache, float32 around them; what keeps float32; integers and scales, one job."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from cuda_cases import session_of
from graph_cases import SPEC, Handmade, canonical, context
from latent_cases import SPEC as LATENT
from latent_cases import canonical as latent_canonical
from static_cases import STEP, product

from inference_pio.graphs.formats import FP32, W8A8_STATIC, WeightFormat
from inference_pio.graphs.integers import IntegerRows
from inference_pio.graphs.narrow import narrowed
from inference_pio.graphs.rewrites import half_products
from inference_pio.graphs.rewrites.rewrite import apply_rewrite, prune
from inference_pio.graphs.targets import find_target
from inference_pio.graphs.weights import Recipe, recipe_of, stored_rows

HALF, FLOAT, FP16 = ir.DataType.FLOAT16, ir.DataType.FLOAT, WeightFormat(16)


def halved(made: Handmade, formats) -> Handmade:
    asked = replace(context(formats=formats), compute=HALF)
    apply_rewrite(half_products, made.model.graph, asked, required=True)
    prune(made.model.graph)
    return made


def answer(made: Handmade, folder: Path, x: np.ndarray) -> np.ndarray:
    return session_of(made.model, folder).run(None, {"x": x})[0]


def decoder(model: ir.Model, spec) -> ir.Model:
    find_target("tensorrt", "modern").lower(model, replace(context(spec, FP16), compute=HALF))
    return model


def nodes(model: ir.Model, *kinds: str) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type in kinds]


def through(value: ir.Value) -> list[str]:
    """The operators that made a value, back to the first that is no Cast."""
    node = value.producer()
    if node is None:
        return []
    return [node.op_type, *(through(node.inputs[0]) if node.op_type == "Cast" else [])]


def residual() -> Handmade:
    made = Handmade()
    x = made.input("x", 1, "rows", 24)
    layer = made.linear(x, made.weight("one", 24, 24))
    made.output(made.b.op("Add", [x, layer]), "y", 1, "rows", 24)
    return made


def test_a_product_takes_and_gives_float16_and_sums_in_float32(tmp_path):
    made = halved(residual(), FP16)
    (matmul,), (add,) = nodes(made.model, "MatMul"), nodes(made.model, "Add")
    assert [cast.attributes["to"].value for cast in nodes(made.model, "Cast")].count(HALF) == 2
    assert [through(value) for value in matmul.inputs] == [["Cast", "Cast"], ["Cast", "Transpose"]]
    assert through(add.inputs[1]) == ["Cast", "Cast", "MatMul"] and add.inputs[0].is_graph_input()
    (weight,) = (value for value in made.model.graph.initializers.values() if recipe_of(value))
    assert weight.dtype == HALF
    x = np.random.default_rng(0).standard_normal((1, 5, 24), np.float32) + 3000
    product_f16 = x.astype(np.float16).astype(np.float32) @ made.arrays["one"].astype(np.float16).T.astype(np.float32)
    expected = x + product_f16.astype(np.float16)
    found = answer(made, tmp_path, x)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= np.spacing(np.abs(product_f16).max().astype(np.float16))
    assert np.abs(found - expected.astype(np.float16)).max() > 0.1  # the stream itself is not rounded


def test_a_weight_that_is_to_be_float32_keeps_its_product():
    made = halved(residual(), FP32)
    assert not nodes(made.model, "Cast")


@pytest.mark.parametrize("exact", [(), (3, 11)])
def test_integers_have_float16_around_them_through_their_scales(tmp_path, exact):
    x = np.random.default_rng(1).standard_normal((1, 7, 24), np.float32)
    wide = answer(product(exact), tmp_path, x)
    made = halved(product(exact), W8A8_STATIC)
    (quantize,) = nodes(made.model, "QuantizeLinear")
    assert quantize.inputs[0].is_graph_input() and quantize.inputs[1].dtype == FLOAT  # no rounding but the one
    assert quantize.inputs[1].const_value.numpy() == np.float32(np.float16(STEP))
    assert {node.inputs[1].dtype for node in nodes(made.model, "DequantizeLinear")} == {HALF}
    weight = next(node for node in nodes(made.model, "DequantizeLinear") if node.inputs[0].is_initializer())
    data, scales = (recipe_of(value) for value in weight.inputs[:2])
    assert data.job == scales.job and (data.side, scales.side) == (False, True)
    found = answer(made, tmp_path, x)
    assert 0 < np.abs(found - wide).max() < 5e-3 * np.abs(wide).max() + STEP


def test_a_decoder_is_narrow_where_it_counts():
    model = decoder(canonical(), SPEC)
    kinds = {str(value.name): value.dtype for value in model.graph.inputs}
    narrow = {name for name, dtype in kinds.items() if dtype == HALF}
    assert narrow == {name for name in kinds if name.startswith(("past_key_values.", "attention_bias"))}
    assert {kinds["hidden_states"], kinds["cos"], kinds["sin"]} == {FLOAT}
    outputs = {str(value.name): value.dtype for value in model.graph.outputs}
    assert outputs.pop("logits") == FLOAT and set(outputs.values()) == {HALF}
    for node in nodes(model, "Attention", "TensorScatter"):
        queries = node.inputs[0] if node.op_type == "Attention" else node.inputs[1]
        assert queries.is_graph_input() or through(queries)[0] in ("Cast", "Transpose")
    for node in nodes(model, "RMSNormalization"):
        assert node.inputs[0].is_graph_input() or through(node.inputs[0])[0] in ("Cast", "Add", "Reshape")
        assert node.inputs[1].dtype == FLOAT
    shaped = [value for node in model.graph for value in node.outputs if value.shape is not None]
    assert [value.name for value in shaped if value.type is None] == []


def test_latents_are_cached_in_float16():
    model = decoder(latent_canonical(), LATENT)
    presents = [value for value in model.graph.outputs if str(value.name).startswith("present.")]
    assert presents and {value.dtype for value in presents} == {HALF}
    for scatter in nodes(model, "TensorScatter"):
        assert scatter.inputs[0].dtype == HALF and through(scatter.inputs[1])[0] == "Cast"
    for attention in nodes(model, "Attention"):
        assert through(attention.inputs[0])[0] == "Cast" and attention.inputs[3].dtype == HALF


def test_a_scale_below_float16_is_no_zero():
    """TensorRT takes positive scales alone."""
    made = Handmade()
    rows = stored_rows(made.weight("tiny", 4, 8))
    made.arrays["tiny"][:] = 1e-9
    scales = made.b.lazy("scales", FLOAT, (4,), Recipe(IntegerRows(rows), side=True))
    found = np.frombuffer(recipe_of(narrowed(scales, HALF)).evaluate(), np.float16)
    assert found.shape == (4,) and (found > 0).all() and found.max() < 1e-7
