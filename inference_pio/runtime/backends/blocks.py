"""What the chain of blocks needs of a device: docs/tensorrt.md has the graphs' interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from inference_pio.artifact.manifest import GraphFacts
from inference_pio.runtime.backends.tower import Tower

EXPERTS_INPUT, EXPERTS_OUTPUT = "experts_input", "experts_output"
PAST, PRESENT = "past_key_values.", "present."
"""What the names of caches begin with, as inputs and as outputs."""
WRITE = "write_indices"
"""The input of blocks that write their caches in place."""
BUCKET = 256
"""Cache rows are bound in multiples of this, and at least as many."""


@dataclass(frozen=True)
class Step:
    """What the blocks read besides weights and cache, the same for all of them.

    `inputs` are float32 arrays by input name: `hidden_states` [1, S, C], `cos`, `sin`, the biases and addends, and,
    where caches are written in place, int64 `write_indices` [1]; `length` rows of the cache are in use before the step,
    `bound` rows (a multiple of BUCKET) are to be bound, all of them where caches are written in place.
    """

    inputs: Mapping[str, np.ndarray]
    length: int
    bound: int

    @property
    def count(self) -> int:
        """New tokens."""
        return self.inputs["hidden_states"].shape[1]


class BlockState(Protocol):
    """The caches of one sequence on the device, and the hidden states on their way through the blocks."""

    def reserve(self, capacity: int, used: int) -> None:
        """Hold `capacity` rows (a multiple of BUCKET) per cache tensor, all finite; the first `used` are kept."""

    def start(self, step: Step) -> None:
        """Take a step's inputs; `hidden_states` are those of the first block."""

    def run_block(self, index: int) -> np.ndarray | None:
        """Run a block over the hidden states and append its new rows to the caches.

        Returns what its experts read, float32 [1, S, C] on the host, valid until the next call; None without experts.
        """

    def put_experts(self, output: np.ndarray) -> None:
        """What the experts made, float32 [1, S, C], for the block (or head) that runs next."""

    def run_head(self, keep: int) -> np.ndarray:
        """Logits of the last `keep` tokens, float32 [keep, V], overwritten by the next call."""

    def save(self, start: int, stop: int) -> np.ndarray:
        """A copy of cache rows `start` to `stop`: float32 [cache tensors, stop - start, G, D], layer by layer."""

    def restore(self, payload: np.ndarray, start: int, stop: int) -> None:
        """Put back what `save` returned."""

    def release(self) -> None:
        """Free the device's memory; the state is unusable afterwards."""


class BlockRunner(Protocol):
    """The blocks and the head of an artifact, loaded onto one device."""

    cache_rows: int
    """Rows of cache that a block can be given at most."""

    def state(self) -> BlockState:
        """A new, empty sequence."""

    def open_tower(self, graph: GraphFacts) -> Tower:
        """As `Backend.open_tower`."""

    def close(self) -> None:
        """Release the weights."""


def rounded_up(rows: int) -> int:
    """A number of cache rows that can be bound."""
    return -(-rows // BUCKET) * BUCKET


def writes_in_place(graphs: Iterable[GraphFacts]) -> bool:
    """Whether blocks take and give whole caches, head-major [1, G, P, D], instead of giving the new rows."""
    return any(value.name == WRITE for graph in graphs for value in graph.inputs)
