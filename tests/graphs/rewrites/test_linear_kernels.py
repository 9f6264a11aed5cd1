"""Linear layers get the kernel of their weight's format; other products stay."""

import sys
from pathlib import Path

import numpy as np
import pytest

from inference_pio.errors import BadInputError
from inference_pio.graphs.architectures import qwen3
from inference_pio.graphs.formats import FP16, FP32, Activations, WeightFormat
from inference_pio.graphs.rewrites import embedding_kernels, linear_kernels
from inference_pio.graphs.rewrites.linear_kernels import rounds_activations
from inference_pio.graphs.rounding import dequantize_blocks, round_blocks
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.weights import recipe_of

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import (
    FakeCheckpoint,
    Handmade,
    apply,
    arrays_of,
    canonical,
    count,
    first,
    logits,
    some_ids,
    spec_with,
)

LINEARS = 2 * 7 + 1


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_floats_keep_their_values(tmp_path, bias, tied):
    spec = spec_with(qkv_bias=bias, output_bias=bias, tied_embeddings=tied)
    ids = some_ids()
    expected = logits(canonical(spec), tmp_path, ids, spec)
    model = canonical(spec)
    assert apply(model, linear_kernels, spec=spec, formats=FP32, required=True).matches == LINEARS
    assert [count(model, name) for name in ("FusedMatMul", "MatMul", "Transpose")] == [LINEARS, 0, 0]
    assert np.abs(logits(model, tmp_path, ids, spec) - expected).max() < 1e-5


def test_half_precision_is_rounded_once_and_widened(tmp_path):
    model = canonical()
    casts = count(model, "Cast")
    apply(model, linear_kernels, formats=FP16)
    assert count(model, "Cast") == casts + LINEARS
    halves = [value for value in model.graph.initializers.values() if value.name.endswith(".float16")]
    assert len(halves) == LINEARS
    assert np.abs(logits(model, tmp_path, some_ids()) - logits(canonical(), tmp_path, some_ids())).max() < 0.05


@pytest.mark.parametrize("bits", [8, 4])
def test_blocks(tmp_path, bits):
    spec = spec_with(qkv_bias=True)
    model = canonical(spec)
    assert apply(model, linear_kernels, spec=spec, formats=WeightFormat(bits)).matches == LINEARS
    nodes = [node for node in model.graph if node.op_type == "MatMulNBits"]
    assert len(nodes) == LINEARS
    shapes = {(n.attributes["N"].value, n.attributes["K"].value, n.attributes["block_size"].value) for n in nodes}
    assert shapes == {(64, 32, 32), (32, 32, 32), (32, 64, 64), (48, 32, 32), (32, 48, 16), (96, 32, 32)}
    assert {n.attributes["bits"].value for n in nodes} == {bits}
    assert sum(len(node.inputs) > 5 for node in nodes) == 6  # the biases ride along
    assert count(model, "Add") == 4  # the residuals
    difference = np.abs(logits(model, tmp_path, some_ids(), spec) - logits(canonical(spec), tmp_path, some_ids(), spec))
    assert 0 < difference.max() < (0.2 if bits == 8 else 3)


def test_the_exact_form_rounds_nothing_but_the_weights(tmp_path):
    """The same graph in floats over the weights that the blocks stand for."""
    spec = spec_with(tied_embeddings=False)
    arrays = arrays_of(spec)
    for name, array in arrays.items():
        if name.endswith("proj.weight") or name == "lm_head.weight":
            data, scales = round_blocks(array, 4, WeightFormat(4).block(array.shape[1]), clip=True)
            arrays[name] = dequantize_blocks(data, scales, 4, array.shape[1]).copy()
    floats = qwen3.build(spec, WeightSource(FakeCheckpoint(arrays)))
    expected = logits(floats, tmp_path, some_ids())
    for activations, rounds in ((Activations.EXACT, False), (Activations.BLOCK, True)):
        model = canonical(spec)
        apply(model, linear_kernels, formats=WeightFormat(4, activations=activations))
        nodes = [node for node in model.graph if node.op_type == "MatMulNBits"]
        assert len(nodes) == LINEARS
        assert {rounds_activations(node) for node in nodes} == {rounds}
        difference = np.abs(logits(model, tmp_path, some_ids()) - expected).max()
        assert difference > 1e-3 if rounds else difference < 1e-5


def test_exact_eight_bits_are_refused():
    with pytest.raises(BadInputError, match=r"'model\.layers\.0\.self_attn\.q_proj\.weight' cannot have .* int8-exact"):
        apply(canonical(), linear_kernels, formats=WeightFormat(8, activations=Activations.EXACT))


def test_a_padded_last_block():
    spec = spec_with(intermediate_size=41)
    model = canonical(spec)
    apply(model, linear_kernels, spec=spec, formats=WeightFormat(4))
    down = next(n for n in model.graph if n.op_type == "MatMulNBits" and n.attributes["K"].value == 41)
    assert list(down.inputs[1].shape) == [32, 2, 16]
    assert list(down.inputs[2].shape) == [32, 2]


def test_the_data_says_what_it_was_made_of():
    model = canonical()
    apply(model, linear_kernels, formats=WeightFormat(8))
    data = first(model, "MatMulNBits").inputs[1]
    assert recipe_of(data).sources == (("model.layers.0.self_attn.q_proj.weight", 64),)


def test_a_tied_head_uses_a_block_that_rows_can_be_looked_up_in():
    spec = spec_with(hidden_size=48)
    model = canonical(spec)
    apply(model, linear_kernels, spec=spec, formats=WeightFormat(8, 128))
    blocks = {n.attributes["N"].value: n.attributes["block_size"].value for n in model.graph if n.domain}
    assert blocks[96] == 16  # the head
    assert blocks[64] == 128  # the query projection, padded


@pytest.mark.parametrize("chosen", [WeightFormat(8), WeightFormat(4), FP16, FP32], ids=str)
def test_two_layers_over_one_weight_store_it_once(chosen):
    made = Handmade()
    weight = made.weight("w", 6, 32)
    for name in ("x", "y"):
        made.output(made.linear(made.input(name, 1, 4, 32), weight), f"{name}_out", 1, 4, 6)
    assert apply(made.model, linear_kernels, embedding_kernels, formats=chosen).matches == 0
    assert len([v for v in made.model.graph.initializers.values() if recipe_of(v) is not None]) == 1 + chosen.quantized


def test_products_of_other_values_stay():
    made = Handmade()
    x = made.input("x", 1, 4, 8)
    made.output(made.b.op("MatMul", [x, made.input("y", 1, 8, 4)]), "activations", 1, 4, 4)
    made.output(made.linear(x, made.b.const(np.ones((6, 8)), np.float32)), "constant", 1, 4, 6)
    made.output(made.b.op("MatMul", [x, made.weight("w", 8, 6)]), "untransposed", 1, 4, 6)
    assert apply(made.model, linear_kernels, formats=WeightFormat(8)).matches == 0
    assert count(made.model, "MatMul") == 3
