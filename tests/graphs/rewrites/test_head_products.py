"""Products with a weight per head in every format, and what is no such product."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import Handmade, apply, count, some_ids
from graph_cases import canonical as grouped
from latent_cases import MLA, SPEC, Steps, arrays_of, canonical, lowered, spec_with

from inference_pio.graphs.formats import FP16, FP32, W8A8, WeightFormat
from inference_pio.graphs.rewrites import head_products
from inference_pio.graphs.rewrites.rewrite import attribute
from inference_pio.graphs.rounding import dequantize_blocks, round_blocks
from inference_pio.graphs.weights import recipe_of

IDS = some_ids(1, 20)
NAME = "model.layers.0.self_attn.kv_b_proj.weight"


@pytest.mark.parametrize("chosen", [FP32, FP16, WeightFormat(8), WeightFormat(4), W8A8], ids=str)
def test_both_products_of_every_layer_match(chosen):
    model = canonical()
    assert apply(model, head_products, spec=SPEC, formats=chosen).matches == 4
    expected = (0, 12) if chosen.quantized else (4, 0)
    assert (count(model, "FusedMatMul"), count(model, "MatMulNBits")) == expected


def test_float32_changes_nothing(tmp_path):
    expected = Steps(lowered(), tmp_path).step(IDS)
    assert np.abs(Steps(lowered(SPEC, head_products), tmp_path).step(IDS) - expected).max() < 1e-6


def rounded(weight_NK: np.ndarray, bits: int, block: int) -> np.ndarray:
    """What blocks of integers make of a weight."""
    data, scales = round_blocks(weight_NK, bits, block, clip=bits == 4)
    return dequantize_blocks(data, scales, bits, weight_NK.shape[1])


@pytest.mark.parametrize("spec", [SPEC, spec_with({"value_dim": 20})], ids=["same_sizes", "other_sizes"])
@pytest.mark.parametrize("chosen", [FP16, WeightFormat(8), WeightFormat(4, 16)], ids=str)
def test_every_head_gets_its_own_rounded_rows(spec, chosen, tmp_path):
    """The float graph over weights that were rounded before gives the same, but for the rounding of activations."""
    arrays, mla = arrays_of(spec), spec.mla
    for name in [name for name in arrays if "kv_b_proj" in name]:
        heads = arrays[name].reshape(spec.heads, -1, mla.kv_rank)
        for weight in heads:
            key, value = weight[: mla.nope_dim], weight[mla.nope_dim :]
            if chosen.bits == 16:
                weight[:] = weight.astype(np.float16)
            else:
                key[:] = rounded(np.ascontiguousarray(key.T), chosen.bits, 32 if chosen.bits == 8 else 16).T
                value[:] = rounded(value, chosen.bits, 16)
    expected = Steps(canonical(spec, arrays), tmp_path).step(IDS)
    model = lowered(spec, head_products, formats=chosen)
    for node in model.graph:
        if node.op_type == "MatMulNBits":
            node.attributes.pop("accuracy_level")
    found = Steps(model, tmp_path).step(IDS)
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(found - Steps(canonical(spec), tmp_path).step(IDS)).max() > 1e-4


def test_weights_say_which_part_of_which_tensor_they_are():
    model = canonical()
    apply(model, head_products, spec=SPEC, formats=WeightFormat(8))
    sources = [recipe.sources for value in model.graph.initializers.values() if (recipe := recipe_of(value))]
    found = {name: rows for source in sources for name, rows in source if name.startswith(NAME)}
    assert found == {
        **{f"{NAME}[key.{head}]": MLA.kv_rank for head in range(3)},
        **{f"{NAME}[value.{head}]": MLA.value_dim for head in range(3)},
    }


def test_the_format_is_that_of_the_tensor():
    asked = []

    def format_of(name: str) -> WeightFormat:
        asked.append(name)
        return WeightFormat(4, 16) if ".0." in name else FP32

    model = canonical()
    apply(model, head_products, spec=SPEC, formats=format_of)
    assert set(asked) == {NAME, NAME.replace(".0.", ".1.")}
    blocks = [attribute(node, "block_size") for node in model.graph if node.op_type == "MatMulNBits"]
    assert (blocks, count(model, "FusedMatMul")) == ([16] * 6, 2)


def test_linear_layers_and_other_products_are_left_alone():
    model = grouped()
    assert apply(model, head_products).matches == 0
    hand = Handmade()
    x = hand.input("x", "b", 3, "s", 8)
    hand.output(hand.b.op("MatMul", [x, hand.input("w", 3, 8, 4)]), "y", "b", 3, "s", 4)
    transposed = hand.b.op("Transpose", [hand.weight("turned", 8, 4, 3)], {"perm": [2, 0, 1]})
    hand.output(hand.b.op("MatMul", [x, transposed]), "z", "b", 3, "s", 4)
    assert apply(hand.model, head_products).matches == 0


def test_a_weight_with_two_readers_is_left_alone():
    hand = Handmade()
    x, weight = hand.input("x", "b", 3, "s", 8), hand.weight("w", 3, 8, 4)
    for name in ("y", "z"):
        hand.output(hand.b.op("MatMul", [x, weight]), name, "b", 3, "s", 4)
    report = apply(hand.model, head_products)
    assert (report.matches, len(report.refused)) == (0, 2)
    assert "used elsewhere" in report.refused[0]
