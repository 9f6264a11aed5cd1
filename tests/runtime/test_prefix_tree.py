"""What is broken in a tree of prefixes is found and named."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from inference_pio.errors import InferencePioError
from inference_pio.runtime.prefix_cache import RadixPrefixCache

sys.path.insert(0, str(Path(__file__).parents[1]))
from prefix_cases import filled, payload


def node(cache: RadixPrefixCache, depth: int):
    return cache._root.chain([np.array(pair, np.int32).tobytes() for pair in pairwise(range(6))][::2][:depth])[-1]


def break_count(cache):
    cache._held_bytes += 1


def break_budget(cache):
    cache.budget_bytes = 20


def break_parent(cache):
    node(cache, 2).parent = node(cache, 3)


def break_child(cache):
    del node(cache, 1).children[node(cache, 2).key]


def break_key(cache):
    node(cache, 3).key = b"12345678"


def break_key_length(cache):
    last = node(cache, 3)
    last.parent.children = {b"123": last}
    last.key = b"123"


def break_order_missing(cache):
    del cache._oldest_first[node(cache, 3)]


def break_order_extra(cache):
    lone = type(node(cache, 1))(b"12345678", cache._root, payload(1), 9)
    cache._oldest_first[lone] = None


def break_order_turned(cache):
    cache._oldest_first.move_to_end(node(cache, 3))


def break_payload(cache):
    node(cache, 3).payload = payload(10)


def break_payload_size(cache):
    replaced = payload(11)
    replaced.setflags(write=False)
    node(cache, 3).payload = replaced


def break_path(cache):
    node(cache, 2).path_bytes -= 1


def break_circle(cache):
    node(cache, 3).children[node(cache, 1).key] = node(cache, 1)


@pytest.mark.parametrize("broken", [value for name, value in list(globals().items()) if name.startswith("break_")])
def test_integrity_is_checked(broken):
    cache = filled()
    cache.check_integrity()
    broken(cache)
    with pytest.raises(InferencePioError, match="prefix cache is broken"):
        cache.check_integrity()
