"""What the chain of blocks needs of a device: docs/tensorrt.md has the graphs' interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from inference_pio.artifact.manifest import GraphFacts, Manifest
from inference_pio.runtime.backends.tower import Tower

EXPERTS_INPUT, EXPERTS_OUTPUT = "experts_input", "experts_output"
PAST, PRESENT = "past_key_values.", "present."
"""What the names of caches begin with, as inputs and as outputs."""
BIAS = "attention_bias"
"""What the names of biases begin with where caches are written in place."""
WRITE = "write_indices"
"""The input of blocks that write their caches in place."""


@dataclass(frozen=True)
class Step:
    """What the blocks read besides weights and cache, the same for all of them.

    `inputs` are float32 arrays by input name: `hidden_states` [1, S, C], `cos`, `sin`, the biases and addends; where
    caches are written in place the biases are of the cache's type, and there is int64 `write_indices` [1]. `length`
    rows of the cache are in use before the step, `bound` rows (a multiple of BUCKET) are to be read; caches that are
    written in place are bound whole.
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
        """A copy of cache rows `start` to `stop`, of its type: [cache tensors, stop - start, G, D], layer by layer."""

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


def blocks_and_head(manifest: Manifest) -> list[GraphFacts]:
    """The graphs that a step runs through, in their order; experts lie between them, on the CPU."""
    return [graph for graph in manifest.graphs if graph.role in ("block", "head")]


def fixed_rows(graphs: Iterable[GraphFacts]) -> int | None:
    """The rows of caches that blocks write in place, head-major [1, G, rows, D]; 0 when they are not all the same.

    None where blocks read the first rows of token-major caches and give the new ones.
    """
    writing = [graph for graph in graphs if any(value.name == WRITE for value in graph.inputs)]
    if not writing:
        return None
    sizes = {tuple(v.shape[2:3]) for graph in writing for v in graph.inputs if v.name.startswith(PAST)}
    size = next(iter(sizes), ())[:1]
    return size[0] if len(sizes) == 1 and size and isinstance(size[0], int) else 0
