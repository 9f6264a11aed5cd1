"""The prefix cache against a naive model, its own integrity check, and several threads."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_pio.errors import BadInputError
from inference_pio.runtime.prefix_cache import NullPrefixCache, PrefixCache, RadixPrefixCache

sys.path.insert(0, str(Path(__file__).parents[1]))
from prefix_cases import BLOCK, KEY_BYTES, filled, payload


def held(cache: RadixPrefixCache, tokens) -> list[int]:
    """The first byte of each payload that is found for `tokens`."""
    return [int(found[0]) for found in cache.match(tokens, len(tokens))]


class NaiveCache:
    """Prefix to payload; `used` numbers uses upwards, a prefix after those that extend it."""

    def __init__(self, budget: int) -> None:
        self.budget, self.clock = budget, 0
        self.payloads: dict[tuple[int, ...], np.ndarray] = {}
        self.used: dict[tuple[int, ...], int] = {}

    def prefixes(self, tokens: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [tokens[:end] for end in range(BLOCK, len(tokens) + 1, BLOCK)]

    def chain(self, tokens: tuple[int, ...]) -> list[tuple[int, ...]]:
        chain = []
        for prefix in self.prefixes(tokens):
            if prefix not in self.payloads:
                break
            chain.append(prefix)
        return chain

    def use(self, chain: list[tuple[int, ...]]) -> None:
        for prefix in reversed(chain):
            self.clock += 1
            self.used[prefix] = self.clock

    def size(self, prefix: tuple[int, ...]) -> int:
        return self.payloads[prefix].nbytes + KEY_BYTES

    def total(self) -> int:
        return sum(map(self.size, self.payloads))

    def match(self, tokens: tuple[int, ...], limit: int) -> list[np.ndarray]:
        chain = self.chain(tokens[: max(limit, 0)])
        self.use(chain)
        return [self.payloads[prefix] for prefix in chain]

    def put(self, tokens: tuple[int, ...], content: np.ndarray) -> bool:
        prefixes = self.prefixes(tokens)
        if not prefixes or content.nbytes + KEY_BYTES > self.budget:
            return False
        chain = self.chain(prefixes[-1])
        self.use(chain)
        if len(chain) == len(prefixes):
            return True
        if len(chain) < len(prefixes) - 1 or sum(map(self.size, chain)) + content.nbytes + KEY_BYTES > self.budget:
            return False
        while self.total() + content.nbytes + KEY_BYTES > self.budget:
            leaves = [p for p in self.payloads if not any(q[: len(p)] == p and q != p for q in self.payloads)]
            oldest = min((leaf for leaf in leaves if leaf not in chain), key=self.used.__getitem__)
            del self.payloads[oldest], self.used[oldest]
        self.payloads[prefixes[-1]] = content
        self.use([*chain, prefixes[-1]])
        return True


TOKENS = st.lists(st.integers(0, 1), max_size=9).map(tuple)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), TOKENS, st.integers(0, 60)),
        st.tuples(st.just("match"), TOKENS, st.integers(-2, 10)),
        st.tuples(st.just("contains"), TOKENS, st.just(0)),
        st.tuples(st.just("clear"), st.just(()), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(budget=st.integers(0, 300), operations=OPERATIONS)
def test_against_the_naive_model(budget, operations):
    cache, naive = RadixPrefixCache(BLOCK, budget), NaiveCache(budget)
    for step, (name, tokens, number) in enumerate(operations):
        if name == "put":
            content = payload(number, step)
            assert cache.put(tokens, content) == naive.put(tokens, content.copy())
        elif name == "match":
            found, expected = cache.match(tokens, number), naive.match(tokens, number)
            assert [part.tolist() for part in found] == [part.tolist() for part in expected]
        elif name == "contains":
            prefixes = naive.prefixes(tokens)
            assert cache.contains(tokens) == (bool(prefixes) and prefixes[-1] in naive.payloads)
        elif step % 3 == 0:
            cache.clear()
            naive = NaiveCache(budget)
        cache.check_integrity()
        assert cache.held_bytes == naive.total() <= budget
        assert cache.held_tokens == len(naive.payloads) * BLOCK


def test_a_chain_is_found_block_by_block():
    cache = filled()
    assert held(cache, range(6)) == [1, 2, 3]
    assert held(cache, [0, 1, 2, 3, 9, 9]) == [1, 2]
    assert held(cache, [9, 1, 2, 3]) == []
    assert held(cache, []) == []
    for limit, count in ((-1, 0), (0, 0), (1, 0), (2, 1), (5, 2), (6, 3), (99, 3)):
        assert len(cache.match(list(range(7)), limit)) == count


def test_half_a_block_does_not_count():
    cache = filled()
    assert held(cache, range(5)) == [1, 2]
    assert cache.put(range(7), payload(1, 9)) and held(cache, range(6)) == [1, 2, 3]
    assert not cache.put([0], payload(1)) and not cache.contains([0]) and not cache.put([], payload(1))
    assert cache.contains(range(7)) and not cache.contains(range(8))


def test_ancestors_must_be_there():
    cache = filled(sizes=(10,))
    assert not cache.put(range(6), payload(10))
    assert not cache.put([5, 5, 2, 3], payload(10))
    assert held(cache, range(6)) == [1]
    cache.check_integrity()


def test_a_held_block_keeps_its_payload():
    cache = filled()
    before = cache.held_bytes
    assert cache.put(range(4), payload(500, 77))
    assert held(cache, range(4)) == [1, 2] and cache.held_bytes == before


def test_the_least_recently_used_leaf_goes_first():
    size = 100
    cache = RadixPrefixCache(BLOCK, 4 * (size + KEY_BYTES))
    for tokens in ([0, 0], [0, 0, 1, 1], [5, 5], [6, 6]):
        assert cache.put(tokens, payload(size, tokens[-1]))
    assert held(cache, [0, 0, 1, 1]) == [0, 1]
    assert cache.put([7, 7], payload(size, 7))
    assert [cache.contains(tokens) for tokens in ([5, 5], [6, 6], [0, 0, 1, 1])] == [False, True, True]
    held(cache, [6, 6])
    held(cache, [7, 7])
    assert cache.put([8, 8], payload(size, 8))
    assert cache.contains([0, 0]) and not cache.contains([0, 0, 1, 1])
    assert cache.put([9, 9], payload(size, 9))
    assert not cache.contains([0, 0])


def test_room_is_never_made_above_the_new_block():
    cache = filled(budget=3 * (10 + KEY_BYTES))
    assert not cache.put(range(8), payload(10))
    assert held(cache, range(6)) == [1, 2, 3]
    assert cache.put([0, 1, 7, 7], payload(10, 7))
    assert held(cache, [0, 1, 7, 7]) == [1, 7] and held(cache, range(6)) == [1, 2]


def test_what_is_larger_than_the_budget_is_not_stored():
    cache = filled(budget=100)
    assert not cache.put([5, 5], payload(100))
    assert held(cache, range(6)) == [1, 2, 3]
    assert RadixPrefixCache(BLOCK, 0).put([1, 1], payload(0)) is False
    assert RadixPrefixCache(BLOCK, KEY_BYTES).put([1, 1], payload(0)) is True


def test_payloads_are_read_only_and_outlive_their_eviction():
    cache = RadixPrefixCache(BLOCK, 2 * (16 + KEY_BYTES))
    source = np.arange(8, dtype=np.float16).reshape(2, 4)
    expected = source.copy()
    assert cache.put([0, 0], source)
    (found,) = cache.match([0, 0], 2)
    assert np.array_equal(found, expected) and found.dtype == np.float16 and found.shape == (2, 4)
    assert found is source, "no copy is made"
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 5
    for token in (1, 2, 3):
        cache.put([token, token], payload(16))
    assert not cache.contains([0, 0]) and np.array_equal(found, expected)
    cache.clear()
    assert np.array_equal(found, expected)


def test_bytes_and_tokens_are_counted():
    cache = filled(sizes=(10, 3, 7))
    assert (cache.held_tokens, cache.held_bytes) == (6, 20 + 3 * KEY_BYTES)
    held(cache, range(6))
    held(cache, [9, 9])
    stats = cache.stats()
    assert (stats.lookups, stats.hits, stats.hit_tokens, stats.stored_blocks, stats.evicted_blocks) == (2, 1, 6, 3, 0)
    assert (stats.held_tokens, stats.held_bytes, stats.budget_bytes) == (6, cache.held_bytes, 10_000)
    cache.clear()
    assert (cache.held_tokens, cache.held_bytes, held(cache, range(6))) == (0, 0, [])
    cache.check_integrity()


def test_capacity():
    cache = RadixPrefixCache(128, 1 << 20)
    assert cache.capacity_tokens(1000) == (1 << 20) // (128 * 1004) * 128 == 1024
    assert cache.capacity_tokens(1 << 20) == 0
    for block in range(20):
        cache.put(np.arange(128) + block * 128, payload(128 * 1000))
    assert cache.held_tokens == 1024


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda ids: np.array(ids, np.uint16)])
def test_any_sequence_of_ids_is_the_same_key(kind):
    cache = filled()
    assert held(cache, kind(list(range(6)))) == [1, 2, 3]


@pytest.mark.parametrize(
    "tokens", [[0, -1], [0, 2**31], [0, 10**30], [0.0, 1.0], ["a", "b"], [[0, 1]], np.array([1, 2**40])]
)
def test_tokens_that_are_none(tokens):
    cache = filled()
    for call in (lambda: cache.match(tokens, 2), lambda: cache.contains(tokens), lambda: cache.put(tokens, payload(1))):
        with pytest.raises(BadInputError, match="token ids"):
            call()


@pytest.mark.parametrize(("block", "budget"), [(0, 10), (-1, 10), (4, -1)])
def test_sizes_that_are_none(block, budget):
    with pytest.raises(BadInputError, match="prefix cache"):
        RadixPrefixCache(block, budget)


def test_threads():
    """Chains that share beginnings, in a cache that holds a fifth of them: what is found is always right."""
    cache = RadixPrefixCache(BLOCK, 40 * (32 + KEY_BYTES))

    def work(seed: int) -> int:
        random, found = np.random.default_rng(seed), 0
        for _ in range(300):
            tokens = random.integers(0, 3, 8).tolist()
            for part, content in zip(range(2, 10, 2), cache.match(tokens, 8), strict=False):
                found += 1
                assert content.tolist() == [hash(tuple(tokens[:part])) % 251] * 32
            for end in (2, 4, 6, 8):
                cache.put(tokens[:end], payload(32, hash(tuple(tokens[:end])) % 251))
        return found

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) > 0
    cache.check_integrity()
    assert cache.stats().evicted_blocks > 0 and cache.held_bytes <= cache.budget_bytes


def test_the_null_cache_keeps_nothing():
    cache = NullPrefixCache()
    assert cache.put([1, 2], payload(1)) is False and cache.match([1, 2], 2) == [] and not cache.contains([1, 2])
    assert (cache.budget_bytes, cache.held_bytes, cache.held_tokens, cache.capacity_tokens(1)) == (0, 0, 0, 0)
    assert cache.stats().lookups == 0
    cache.clear()
    cache.check_integrity()


def test_both_follow_the_protocol():
    for cache in (NullPrefixCache(), RadixPrefixCache(1, 1)):
        names = [name for name in vars(PrefixCache) if not name.startswith("_")]
        assert names and all(hasattr(cache, name) for name in names)
