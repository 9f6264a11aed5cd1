"""Weight formats by name, and the block sizes they come to."""

import pytest

from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import FP16, FP32, W8A8, W8A8_STATIC, Activations, WeightFormat


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fp32", FP32),
        ("fp16", FP16),
        ("int8", WeightFormat(8)),
        ("int4", WeightFormat(4)),
        ("int4-block32", WeightFormat(4, 32)),
        ("int8-block128", WeightFormat(8, 128)),
        ("int8-block16", WeightFormat(8, 16)),
        ("int8-exact", WeightFormat(8, activations=Activations.EXACT)),
        ("int4-exact", WeightFormat(4, activations=Activations.EXACT)),
        ("int4-exact-block64", WeightFormat(4, 64, Activations.EXACT)),
        ("w8a8", W8A8),
        ("w8a8-static", W8A8_STATIC),
    ],
)
def test_names_and_formats(text, expected):
    assert WeightFormat.parse(text) == expected
    assert str(expected) == text


STRANGE = (
    *("", "int", "int3", "int44", "fp8", "bf16", "INT8", "int8 ", "fp32-block32", "int4-block", "int4-block0"),
    *("int4-block48", "int4-block256", "int4-block-32", "int8-block1_6", "int4-block32\n"),
    *("exact", "fp32-exact", "w8a8-exact", "int4-block32-exact", "int4exact", "int4-exact-"),
)


@pytest.mark.parametrize("text", STRANGE)
def test_other_names_are_refused(text):
    with pytest.raises(BadInputError, match="use fp32, fp16, w8a8, w8a8-static, int8, int4"):
        WeightFormat.parse(text)


@pytest.mark.parametrize(
    ("columns", "block", "gather"),
    [(1024, 128, 128), (192, 64, 64), (160, 32, 32), (48, 16, 16), (40, 32, None), (56, 32, None), (1, 32, None)],
)
def test_the_largest_block_that_divides(columns, block, gather):
    assert WeightFormat(8).block(columns) == block
    assert WeightFormat(8).gather_block(columns) == gather


def test_a_given_block_holds_for_products_and_bounds_lookups():
    chosen = WeightFormat(4, 64)
    assert [chosen.block(columns) for columns in (128, 96, 40)] == [64, 64, 64]
    assert [chosen.gather_block(columns) for columns in (128, 96, 48, 40)] == [64, 32, 16, None]


@pytest.mark.parametrize(
    ("text", "wider"),
    [
        ("int4", "int8"),
        ("int4-block32", "int8-block32"),
        ("int8", "fp16"),
        ("int4-exact", "fp16"),
        ("int8-exact", "fp16"),
        *((name, name) for name in ("fp16", "fp32", "w8a8", "w8a8-static")),
    ],
)
def test_one_width_up(text, wider):
    assert str(WeightFormat.parse(text).wider()) == wider


def test_exact_blocks_are_no_integer_products_and_experts_keep_them_in_four_bits_alone():
    eight, four = (WeightFormat(bits, activations=Activations.EXACT) for bits in (8, 4))
    assert not eight.integer_product and not four.integer_product
    assert (eight.for_experts(), four.for_experts()) == (eight, four)
    assert (eight.block(96), four.block(96)) == (32, 32)
    assert (eight.expert_block(96, 64), four.expert_block(96, 64)) == (None, 32)
    assert WeightFormat(8).expert_block(96, 64) == 32
