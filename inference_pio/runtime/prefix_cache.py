"""The prefix cache: a radix tree over blocks of tokens that keeps keys and values of prompts in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

import numpy as np

from inference_pio.errors import InferencePioError


class PrefixCache(Protocol):
    """What the generation loop needs of a prefix cache. Threads may share one."""

    budget_bytes: int

    def match(self, tokens: Sequence[int], limit: int) -> list[np.ndarray]:
        """The payloads of the longest chain of whole blocks within `tokens[:limit]`, first block first."""

    def contains(self, tokens: Sequence[int]) -> bool:
        """Whether the block that ends `tokens` (whole blocks) is held."""

    def put(self, tokens: Sequence[int], payload: np.ndarray) -> bool:
        """Hold `payload` for the last block of `tokens` (whole blocks); False when it was not stored."""

    def check_integrity(self) -> None:
        """Raise InferencePioError that says what is broken, if anything is."""

    def clear(self) -> None:
        """Drop everything."""


@dataclass
class _Node:
    key: bytes
    parent: _Node | None
    payload: np.ndarray | None
    children: dict[bytes, _Node] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.key) + (0 if self.payload is None else self.payload.nbytes)


class RadixPrefixCache:
    """An in-memory radix tree with a budget in bytes; the least recently used leaf goes first.

    An edge is one block of `block_tokens` token ids, a node holds the block's payload. Payloads that were handed out
    stay valid after eviction, because arrays are referenced, not recycled.
    """

    def __init__(self, block_tokens: int, budget_bytes: int) -> None:
        self.block_tokens = block_tokens
        self.budget_bytes = budget_bytes
        self.held_bytes = 0
        self._root = _Node(b"", None, None)
        self._leaves: OrderedDict[int, _Node] = OrderedDict()
        self._lock = Lock()

    @property
    def held_tokens(self) -> int:
        """Tokens whose keys and values are held."""
        with self._lock:
            return sum(1 for _ in self._nodes()) * self.block_tokens

    def capacity_tokens(self, bytes_per_token: int) -> int:
        """How many tokens the budget holds at `bytes_per_token` of payload."""
        block = self.block_tokens * (bytes_per_token + np.dtype(np.int32).itemsize)
        return self.budget_bytes // block * self.block_tokens

    def match(self, tokens: Sequence[int], limit: int) -> list[np.ndarray]:
        with self._lock:
            found, node = [], self._root
            for key in self._keys(tokens[: max(limit, 0)]):
                child = node.children.get(key)
                if child is None:
                    break
                assert child.payload is not None
                found.append(child.payload)
                node = child
            self._touch(node)
            return found

    def contains(self, tokens: Sequence[int]) -> bool:
        with self._lock:
            return self._find(self._keys(tokens)) is not None

    def put(self, tokens: Sequence[int], payload: np.ndarray) -> bool:
        *above, key = self._keys(tokens)
        with self._lock:
            parent = self._find(above)
            if parent is None or key in parent.children:
                return False
            node = _Node(key, parent, np.ascontiguousarray(payload))
            if not self._make_room(node.size, parent):
                return False
            parent.children[key] = node
            self.held_bytes += node.size
            self._leaves.pop(id(parent), None)
            self._leaves[id(node)] = node
            return True

    def clear(self) -> None:
        with self._lock:
            self._root = _Node(b"", None, None)
            self._leaves.clear()
            self.held_bytes = 0

    def check_integrity(self) -> None:
        with self._lock:
            nodes = list(self._nodes())
            if sum(node.size for node in nodes) != self.held_bytes:
                raise InferencePioError(f"prefix cache: {self.held_bytes} bytes are counted, but others are held")
            if self.held_bytes > self.budget_bytes:
                raise InferencePioError(f"prefix cache: {self.held_bytes} bytes exceed its {self.budget_bytes}")
            for node in nodes:
                if node.parent is None or node.parent.children.get(node.key) is not node or node.payload is None:
                    raise InferencePioError("prefix cache: a block is not linked to its parent, or has no payload")
                if len(node.key) != self.block_tokens * np.dtype(np.int32).itemsize:
                    raise InferencePioError("prefix cache: a block has a wrong number of tokens")
            if {id(node) for node in nodes if not node.children} != set(self._leaves):
                raise InferencePioError("prefix cache: the order of use does not hold the leaves")

    def _keys(self, tokens: Sequence[int]) -> list[bytes]:
        ids = np.asarray(tokens, np.int32)
        blocks = len(ids) // self.block_tokens
        return [ids[i * self.block_tokens : (i + 1) * self.block_tokens].tobytes() for i in range(blocks)]

    def _find(self, keys: Sequence[bytes]) -> _Node | None:
        node: _Node | None = self._root
        for key in keys:
            node = node.children.get(key) if node is not None else None
        return node

    def _touch(self, node: _Node) -> None:
        """Note a use of `node`; an inner node counts when its leaves are gone."""
        if id(node) in self._leaves:
            self._leaves.move_to_end(id(node))

    def _make_room(self, size: int, keep: _Node) -> bool:
        """Evict least recently used leaves, never `keep` or what is above it, until `size` bytes fit."""
        while self.held_bytes + size > self.budget_bytes:
            victim = next((leaf for leaf in self._leaves.values() if leaf is not keep), None)
            if victim is None or size > self.budget_bytes:
                return False
            self._evict(victim)
        return True

    def _evict(self, leaf: _Node) -> None:
        parent = leaf.parent
        assert parent is not None
        del self._leaves[id(leaf)], parent.children[leaf.key]
        self.held_bytes -= leaf.size
        if not parent.children and parent is not self._root:
            self._leaves[id(parent)] = parent
            self._leaves.move_to_end(id(parent), last=False)

    def _nodes(self) -> list[_Node]:
        found, waiting = [], list(self._root.children.values())
        while waiting:
            node = waiting.pop()
            found.append(node)
            waiting.extend(node.children.values())
        return found


class NullPrefixCache:
    """Keeps nothing."""

    budget_bytes = 0

    def match(self, tokens: Sequence[int], limit: int) -> list[np.ndarray]:
        return []

    def contains(self, tokens: Sequence[int]) -> bool:
        return False

    def put(self, tokens: Sequence[int], payload: np.ndarray) -> bool:
        return False

    def check_integrity(self) -> None:
        """Nothing can be broken."""

    def clear(self) -> None:
        """Nothing is held."""
