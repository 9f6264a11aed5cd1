"""Grids follow from shapes, and stay within what a GPU can do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inference_pio.errors import BadInputError
from inference_pio.runtime.kernels import Limits
from inference_pio.runtime.kernels.plans import Launch, attend_plan, gemv_plan, pitch_of, quantize_plan

GTX1060 = Limits("GTX 1060", 61, multiprocessors=10, threads_per_block=1024, bandwidth=192_000_000_000)


@pytest.mark.parametrize(("columns", "pitch"), [(1, 16), (16, 16), (17, 32), (2560, 2560), (131056, 131056)])
def test_rows_are_whole_vectors(columns, pitch):
    assert pitch_of(columns) == pitch


@pytest.mark.parametrize("columns", [0, -1, 131057])
def test_rows_without_an_exact_sum_are_refused(columns):
    with pytest.raises(BadInputError, match="have no product"):
        pitch_of(columns)
    assert 127 * 128 * 131056 < 2**31 and 128 * 128 * 131056 < 2**31 <= 128 * 128 * 131072


@pytest.mark.parametrize(("tokens", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8)])
def test_a_product_takes_the_smallest_kernel_that_holds_its_tokens(tokens, size):
    assert gemv_plan(tokens, 33) == Launch(f"gemv_w8a8_m{size}", (3, 1, 1), 256)


@pytest.mark.parametrize("tokens", [0, 9])
def test_a_product_has_one_to_eight_tokens(tokens):
    with pytest.raises(BadInputError, match="in groups"):
        gemv_plan(tokens, 16)


def test_a_token_is_rounded_by_a_block():
    assert quantize_plan(7, static=False) == Launch("quantize_tokens", (7, 1, 1), 512)
    assert quantize_plan(7, static=True).kernel == "quantize_static"


@pytest.mark.parametrize(
    ("heads", "kv_heads", "kernel", "columns"),
    [(32, 8, "g4", 8), (16, 8, "g2", 8), (32, 32, "g1", 32), (28, 4, "g8", 4), (12, 4, "g4", 4), (20, 1, "g8", 3)],
)
def test_heads_share_the_cache_in_groups(heads, kv_heads, kernel, columns):
    plan = attend_plan(GTX1060, 1, heads, kv_heads, 128, 4096)
    assert plan.attend.kernel == f"attend_d128_{kernel}" and plan.attend.grid[1] == columns
    assert plan.merge.grid == (heads, 1, 1) and plan.merge.block == 128


def test_the_context_is_split_to_fill_the_gpu_and_no_further():
    assert [attend_plan(GTX1060, 1, 32, 8, 128, capacity).splits for capacity in (1, 128, 129, 2048, 32768)] == [
        1,
        1,
        2,
        10,
        10,
    ]
    assert attend_plan(GTX1060, 1, 32, 32, 64, 32768).splits == 3
    assert attend_plan(replace(GTX1060, multiprocessors=132), 1, 32, 8, 128, 32768).splits == 132
    assert attend_plan(GTX1060, 7, 32, 8, 128, 2048).splits == 10  # as for one row


@pytest.mark.parametrize(
    ("shape", "words"),
    [((1, 4, 3, 64, 8), "cannot share"), ((1, 4, 0, 64, 8), "cannot share"), ((1, 4, 2, 96, 8), "not 96"),
     ((1, 4, 2, 64, 0), "one token at least"), ((70000, 4, 2, 64, 8), "cannot run a grid"), ((0, 4, 2, 64, 8), "grid")],
)  # fmt: skip
def test_shapes_without_a_kernel_are_refused(shape, words):
    with pytest.raises(BadInputError, match=words):
        attend_plan(GTX1060, *shape)


def test_a_block_larger_than_the_gpu_allows_is_refused():
    with pytest.raises(BadInputError, match="512 threads in a block and GTX 1060 allows 256"):
        quantize_plan(1, static=False).check(replace(GTX1060, threads_per_block=256))
