"""The prefix cache: what the generation loop asks of one, the radix tree in memory, and the one that keeps nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

from inference_pio.errors import BadInputError, InferencePioError
from inference_pio.runtime.prefix_tree import TOKEN_BYTES, Node, Payload, block_keys, faults


@dataclass(frozen=True)
class CacheStats:
    """What a cache did since it was made, and what it holds now."""

    lookups: int
    hits: int
    hit_tokens: int
    stored_blocks: int
    evicted_blocks: int
    held_tokens: int
    held_bytes: int
    budget_bytes: int


class PrefixCache(Protocol):
    """Keeps a payload (keys and values) per block of tokens, found by all the tokens up to its end.

    Threads may share one. Payloads that were handed out stay valid whatever happens to the cache.
    """

    @property
    def budget_bytes(self) -> int:
        """The most that payloads and keys may take together."""

    def match(self, tokens: Sequence[int], limit: int) -> list[Payload]:
        """The payloads of the longest held chain of whole blocks within `tokens[:limit]`, first block first."""

    def contains(self, tokens: Sequence[int]) -> bool:
        """Whether the last whole block of `tokens` is held, with all before it; does not count as a use."""

    def put(self, tokens: Sequence[int], payload: Payload) -> bool:
        """Hold `payload` for the last whole block of `tokens`; True when that block is held now.

        It is not copied and becomes read-only. Refused when a block before it is missing or the budget is too small.
        A held block keeps its payload.
        """

    def stats(self) -> CacheStats:
        """What the cache did and holds."""

    def capacity_tokens(self, bytes_per_token: int) -> int:
        """How many tokens fit the budget when each takes `bytes_per_token` of payload."""

    def check_integrity(self) -> None:
        """Raise InferencePioError that says what is broken, if anything is."""

    def clear(self) -> None:
        """Drop everything that is held."""


class RadixPrefixCache:
    """A radix tree in memory whose edges are blocks of token ids, with a budget in bytes.

    The least recently used block goes first. A use of a block is also one of those above it, and theirs is later, so
    a block is always older than the one it hangs on: the oldest of all is a leaf, and a plain queue finds it in O(1).
    Payloads are taken over and made read-only.
    """

    def __init__(self, block_tokens: int, budget_bytes: int) -> None:
        if block_tokens < 1 or budget_bytes < 0:
            raise BadInputError("a prefix cache needs blocks of at least one token and a budget of at least 0 bytes")
        self.block_tokens = block_tokens
        self.budget_bytes = budget_bytes
        self._root = Node.root()
        self._oldest_first: OrderedDict[Node, None] = OrderedDict()
        self._lock = Lock()
        self._held_bytes = self._lookups = self._hits = self._hit_blocks = self._stored = self._evicted = 0

    @property
    def held_bytes(self) -> int:
        """What payloads and keys take now."""
        return self._held_bytes

    @property
    def held_tokens(self) -> int:
        """Tokens whose payloads are held."""
        return len(self._oldest_first) * self.block_tokens

    def capacity_tokens(self, bytes_per_token: int) -> int:
        """How many tokens fit the budget when each takes `bytes_per_token` of payload."""
        return self.budget_bytes // (self.block_tokens * (bytes_per_token + TOKEN_BYTES)) * self.block_tokens

    def match(self, tokens: Sequence[int], limit: int) -> list[Payload]:
        """The payloads of the longest held chain of whole blocks within `tokens[:limit]`, first block first."""
        keys = block_keys(tokens[: max(limit, 0)], self.block_tokens)
        with self._lock:
            chain = self._root.chain(keys)
            self._use(chain)
            self._lookups += 1
            self._hits += bool(chain)
            self._hit_blocks += len(chain)
            return [node.payload for node in chain]

    def contains(self, tokens: Sequence[int]) -> bool:
        """Whether the last whole block of `tokens` is held, with all before it; does not count as a use."""
        keys = block_keys(tokens, self.block_tokens)
        with self._lock:
            return bool(keys) and len(self._root.chain(keys)) == len(keys)

    def put(self, tokens: Sequence[int], payload: Payload) -> bool:
        """Hold `payload` for the last whole block of `tokens`; True when that block is held now.

        It is not copied and becomes read-only. Refused when a block before it is missing or the budget is too small.
        A held block keeps its payload.
        """
        keys = block_keys(tokens, self.block_tokens)
        if not keys or len(keys[-1]) + payload.nbytes > self.budget_bytes:
            return False
        payload.setflags(write=False)
        with self._lock:
            chain = self._root.chain(keys)
            self._use(chain)
            if len(chain) >= len(keys) - 1:
                return len(chain) == len(keys) or self._add(chain, keys[-1], payload)
            return False

    def stats(self) -> CacheStats:
        """What the cache did and holds."""
        with self._lock:
            return CacheStats(
                lookups=self._lookups,
                hits=self._hits,
                hit_tokens=self._hit_blocks * self.block_tokens,
                stored_blocks=self._stored,
                evicted_blocks=self._evicted,
                held_tokens=self.held_tokens,
                held_bytes=self._held_bytes,
                budget_bytes=self.budget_bytes,
            )

    def check_integrity(self) -> None:
        """Raise InferencePioError that says what is broken, if anything is."""
        with self._lock:
            fault = next(faults(self._root, self._oldest_first, self._held_bytes, self.block_tokens), None)
            if fault is None and self._held_bytes > self.budget_bytes:
                fault = f"it holds {self._held_bytes} bytes of a budget of {self.budget_bytes}"
        if fault is not None:
            raise InferencePioError(f"the prefix cache is broken: {fault}")

    def clear(self) -> None:
        """Drop everything that is held."""
        with self._lock:
            for node in self._oldest_first:
                # Parents and children refer to each other: unlinked, their payloads are freed at once.
                node.parent, node.children = None, {}
            self._root.children.clear()
            self._oldest_first.clear()
            self._held_bytes = 0

    def _use(self, chain: Sequence[Node]) -> None:
        """Mark a chain as used, the deepest block first, so that none is younger than the one it hangs on."""
        for node in reversed(chain):
            self._oldest_first.move_to_end(node)

    def _add(self, chain: Sequence[Node], key: bytes, payload: Payload) -> bool:
        """Hang a block under a chain that was just used; False when it does not fit beside that chain."""
        parent = chain[-1] if chain else self._root
        node = Node(key, parent, payload, parent.path_bytes + len(key) + payload.nbytes)
        if node.path_bytes > self.budget_bytes:
            return False
        # The chain is the youngest and fits, so room is found before its turn comes.
        while self._held_bytes + node.size > self.budget_bytes:
            self._evict_oldest()
        parent.children[key] = node
        self._oldest_first[node] = None
        self._held_bytes += node.size
        self._stored += 1
        self._use(chain)
        return True

    def _evict_oldest(self) -> None:
        node, _ = self._oldest_first.popitem(last=False)
        if node.parent is not None:
            del node.parent.children[node.key]
        self._held_bytes -= node.size
        self._evicted += 1


class NullPrefixCache:
    """Keeps nothing."""

    budget_bytes = held_bytes = held_tokens = 0

    def match(self, tokens: Sequence[int], limit: int) -> list[Payload]:
        """Finds nothing."""
        return []

    def contains(self, tokens: Sequence[int]) -> bool:
        """Holds nothing."""
        return False

    def put(self, tokens: Sequence[int], payload: Payload) -> bool:
        """Takes nothing."""
        return False

    def stats(self) -> CacheStats:
        """All zero."""
        return CacheStats(0, 0, 0, 0, 0, 0, 0, 0)

    def capacity_tokens(self, bytes_per_token: int) -> int:
        """No token fits."""
        return 0

    def check_integrity(self) -> None:
        """Nothing can be broken."""

    def clear(self) -> None:
        """Nothing is held."""
