"""The nodes of the prefix cache's radix tree, and the check that they hang together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_pio.errors import BadInputError

Payload = NDArray[Any]

TOKEN_BYTES = np.dtype(np.int32).itemsize
"""Bytes of a token id in a key."""


@dataclass(eq=False)
class Node:
    """One block of tokens with its payload; `path_bytes` counts it and all blocks above it."""

    key: bytes
    parent: Node | None
    payload: Payload
    path_bytes: int
    children: dict[bytes, Node] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the key and the payload."""
        return len(self.key) + self.payload.nbytes

    @classmethod
    def root(cls) -> Node:
        """The node above all first blocks; holds nothing itself."""
        return cls(b"", None, np.empty(0, np.uint8), 0)

    def chain(self, keys: Sequence[bytes]) -> list[Node]:
        """The nodes below this one along `keys`, as far as they are there."""
        found: list[Node] = []
        node: Node | None = self
        for key in keys:
            node = node.children.get(key) if node is not None else None
            if node is None:
                break
            found.append(node)
        return found


def block_keys(tokens: Sequence[int], block_tokens: int) -> list[bytes]:
    """The keys of the whole blocks of `tokens`: their ids as int32 bytes.

    Raises BadInputError for anything but a flat list of integers from 0 to 2**31 - 1.
    """
    ids = np.asarray(tokens)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise BadInputError("the prefix cache takes token ids as a flat list of integers")
    if ids.size and not 0 <= ids.min() <= ids.max() <= np.iinfo(np.int32).max:
        raise BadInputError("the prefix cache takes token ids from 0 to 2**31 - 1")
    content = ids.astype(np.int32).tobytes()
    step = block_tokens * TOKEN_BYTES
    return [content[start : start + step] for start in range(0, len(content) - step + 1, step)]


def faults(root: Node, oldest_first: Collection[Node], held_bytes: int, block_tokens: int) -> Iterator[str]:
    """What is wrong with a tree: its links, keys and payloads, the order of use, the count of bytes."""
    nodes: dict[Node, None] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        for key, child in node.children.items():
            if child in nodes:
                yield "a block hangs in two places"
                return
            nodes[child] = None
            yield from _node_faults(node, key, child, block_tokens)
            waiting.append(child)
    yield from _order_faults(list(oldest_first), nodes)
    held = sum(node.size for node in nodes)
    if held != held_bytes:
        yield f"it counts {held_bytes} bytes and holds {held}"


def _node_faults(parent: Node, key: bytes, node: Node, block_tokens: int) -> Iterator[str]:
    if node.parent is not parent:
        yield "a block does not link back to the one that it hangs on"
    if node.key != key or len(key) != block_tokens * TOKEN_BYTES:
        yield f"a key of {len(node.key)} bytes is not that of its edge, or not one of {block_tokens} tokens"
    if node.path_bytes != parent.path_bytes + node.size:
        yield "the bytes along a path are miscounted"
    if not isinstance(node.payload, np.ndarray) or node.payload.base is not None or node.payload.flags.writeable:
        yield "a payload is not a read-only array of its own"


def _order_faults(order: list[Node], nodes: Collection[Node]) -> Iterator[str]:
    places = {node: place for place, node in enumerate(order)}
    if places.keys() != set(nodes):
        yield f"the order of use has {len(places)} blocks and the tree {len(nodes)}, or others"
        return
    if any(node.parent in places and places[node] > places[node.parent] for node in order):
        yield "a block was used later than the one that it hangs on"
