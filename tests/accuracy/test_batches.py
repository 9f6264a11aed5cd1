"""With w8a8 a token's result is its own: bit for bit the same alone, in any batch and in any chunk of a prompt.

The one exception lies in ONNX Runtime's float attention: a chunk of a single token goes through another kernel, which
sums in another order. So chunks are of two tokens or more, and a single one at the end may differ in its last bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from product_cases import random_layer, save_layer, session

from inference_pio.runtime import Engine, EngineConfig, SamplingParams, teacher_forcing
from inference_pio.verify.windows import read_text

COUNT = 300


@pytest.fixture(scope="module")
def opened(lab) -> Iterator[Engine]:
    with Engine.open(lab.artifact("tiny", "w8a8"), EngineConfig(threads=2, prefix_cache_bytes=0)) as found:
        yield found


@pytest.fixture(scope="module")
def ids(opened: Engine) -> list[int]:
    return opened.tokenizer.encode(read_text(None).content)[:COUNT]


@pytest.fixture(scope="module")
def whole(opened: Engine, ids: list[int]) -> np.ndarray:
    return opened.logits(ids)


@pytest.mark.parametrize("length", [1, 2, 3, 17, 127, 128, 130, 200, 256, 299])
def test_what_follows_changes_nothing(opened, ids, whole, length):
    assert np.array_equal(opened.logits(ids[:length]), whole[:length])


@pytest.mark.parametrize("chunk", [2, 7, 32, 100, 256, 300])
def test_the_size_of_chunks_changes_nothing(opened, ids, whole, chunk, monkeypatch):
    monkeypatch.setattr(teacher_forcing, "CHUNK_TOKENS", chunk)
    assert COUNT % chunk != 1
    assert np.array_equal(opened.logits(ids), whole)


@pytest.mark.parametrize("length", [129, 257])
def test_a_chunk_of_one_token_differs_in_the_last_bits_at_most(opened, ids, whole, length):
    found = opened.logits(ids[:length])
    assert np.array_equal(found[:-1], whole[: length - 1])
    assert np.abs(found[-1] - whole[length - 1]).max() < 1e-4


def test_rows_of_a_padded_batch_are_what_they_are_alone(opened, ids):
    lengths = (1, 40, 131, 200)
    batch, mask = np.zeros((len(lengths), 200), np.int64), np.zeros((len(lengths), 200), np.int64)
    for row, length in enumerate(lengths):
        batch[row, :length], mask[row, :length] = ids[row : row + length], 1
        batch[row, length:] = 7 + row  # padding is no token, whatever stands there
    found = opened.logits(batch, mask)
    for row, length in enumerate(lengths):
        assert np.array_equal(found[row, :length], opened.logits(ids[row : row + length]))
        assert not found[row, length:].any()


def test_the_prefix_cache_changes_no_token(lab, ids):
    params = SamplingParams(temperature=0.0, max_new_tokens=24, logprobs=1)
    answers = []
    for cache in (0, 64 << 20):
        config = EngineConfig(threads=2, prefix_cache_bytes=cache)
        with Engine.open(lab.artifact("tiny", "w8a8"), config) as found:
            answers += [found.generate(ids, params) for _ in range(2)]
    assert [answer.usage.cached_tokens for answer in answers] == [0, 0, 0, 256]
    assert len({answer.token_ids for answer in answers}) == 1
    assert len({answer.logprobs for answer in answers}) == 1


@pytest.mark.parametrize("columns", [160, 448, 1024])
@pytest.mark.parametrize("exact", [(), (3, 77)])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_alone_is_that_row_among_others(tmp_path: Path, columns: int, exact: tuple[int, ...], threads: int):
    """The product as it is exported, with rows of every size around: of zeros, usual ones, and 1e30 times larger."""
    layer = random_layer(columns, (96, 33), exact=exact)
    model = session(save_layer(layer, tmp_path), threads)
    random = np.random.default_rng(0)
    row = random.standard_normal((1, columns)).astype(np.float32)
    (alone,) = model.run(None, {"x": row})
    assert np.isfinite(alone).all() and np.abs(alone).max() > 1
    for others in (2, 3, 17, 128):
        x = random.standard_normal((others + 1, columns)).astype(np.float32)
        x[0], x[others // 2] = 0, x[others // 2] * np.float32(1e30)
        for place in (0, 1, others):
            if place == others // 2:
                continue
            batch = x.copy()
            batch[place] = row
            (found,) = model.run(None, {"x": batch})
            assert np.array_equal(found[place], alone[0]), (others, place)


def test_a_row_of_zeros_gives_zeros(tmp_path: Path):
    model = session(save_layer(random_layer(160), tmp_path))
    x = np.random.default_rng(0).standard_normal((3, 160)).astype(np.float32)
    x[1] = 0
    (found,) = model.run(None, {"x": x})
    assert not found[1].any() and np.isfinite(found).all()
    assert not model.run(None, {"x": x[1:2]})[0].any()
