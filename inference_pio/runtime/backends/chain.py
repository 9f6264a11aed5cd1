"""A chain of blocks: the host looks tokens up, makes rotary rows and masks, and sends hidden states through them.

What runs the blocks is a `BlockRunner`: ONNX Runtime's CPU here, TensorRT where there is one. Experts of hybrids run on
ONNX Runtime's CPU in both. docs/tensorrt.md has the graphs' interface.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from inference_pio.artifact.cache_rows import rounded_up
from inference_pio.artifact.manifest import GraphFacts, Manifest, PositionSpec
from inference_pio.errors import BadInputError, ResourceLimitError
from inference_pio.runtime.backends.blocks import (
    EXPERTS_INPUT,
    EXPERTS_OUTPUT,
    PAST,
    WRITE,
    BlockRunner,
    Step,
    blocks_and_head,
    fixed_rows,
)
from inference_pio.runtime.backends.cached_sequence import CachedSequence
from inference_pio.runtime.backends.rotary_tables import RotaryTables
from inference_pio.runtime.backends.token_table import TokenTable
from inference_pio.runtime.backends.tower import Tower
from inference_pio.runtime.candidates import Query
from inference_pio.runtime.memory import MemoryBudget
from inference_pio.runtime.vision.features import ChunkImages

HIDDEN = {"float32": -1e30, "float16": -32768.0}
"""What is added to the score of a row that a token must not see, by type; finite, so that nothing becomes NaN."""
_BIAS = re.compile(r"(?:past|attention)_bias(?:\.(\d+))?")
_DEEPSTACK = re.compile(r"deepstack_embeds\.(\d+)")


class ChainBackend:
    """An artifact cut into `blocks`, on the device of `runner`; `experts` are sessions by the block they follow."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        blocks: list[GraphFacts],
        runner: BlockRunner,
        experts: dict[int, Any],
        budget: MemoryBudget,
    ) -> None:
        """`blocks` are those of `block_graphs`; raises BadInputError for positions or a table that do not fit them."""
        if manifest.positions is None:
            raise BadInputError(f"the manifest in {folder} has no rotary frequencies: export the artifact again")
        self.blocks = blocks
        self.manifest, self.positions = manifest, manifest.positions
        self.runner, self.experts, self.budget = runner, experts, budget
        self.fixed_rows = fixed_rows(self.blocks)
        self.table = TokenTable(folder, manifest)
        names = {value.name for graph in self.blocks for value in graph.inputs}
        _check_positions(self.blocks, manifest.positions, folder)
        self.windows = [int(m[1]) if m[1] else None for name in sorted(names) if (m := _BIAS.fullmatch(name))]
        """Of the layers, without repetition; None sees everything before it."""
        self.addends = sorted(int(m[1]) for name in names if (m := _DEEPSTACK.fullmatch(name)))
        """Layers behind which features of images are added."""

    def sequence(self) -> ChainSequence:
        return ChainSequence(self)

    def open_tower(self, graph: GraphFacts) -> Tower:
        return self.runner.open_tower(graph)

    def close(self) -> None:
        self.runner.close()
        self.experts = {}


class ChainSequence(CachedSequence):
    """One sequence; its caches lie on the runner's device."""

    def __init__(self, backend: ChainBackend) -> None:
        per_token, most = backend.manifest.cache.bytes_per_token, backend.runner.cache_rows
        super().__init__(backend.budget, per_token, most, backend.fixed_rows)
        self._backend = backend
        self._state = backend.runner.state()
        self._tables = RotaryTables(backend.positions)

    def reserve(self, tokens: int) -> None:
        rows, most = rounded_up(tokens), self._backend.runner.cache_rows
        if rows > most:
            raise ResourceLimitError(
                f"{rows} rows of cache are needed and the engines were built for {most}: build them again with a "
                "larger --max-context"
            )
        super().reserve(tokens)

    def place(self, positions: np.ndarray, ahead: int) -> None:
        self._tables.place(positions, ahead)

    def forward(self, tokens: np.ndarray, keep: int, images: ChunkImages | None = None) -> np.ndarray:
        total = self.length + len(tokens)
        self.reserve(total)
        started = time.perf_counter()
        self._state.start(self._step(tokens, images))
        for index in range(len(self._backend.blocks)):
            wanted = self._state.run_block(index)
            if wanted is not None:
                (made,) = self._backend.experts[index].run(None, {EXPERTS_INPUT: wanted})
                self._state.put_experts(made)
        logits = self._state.run_head(keep)
        self.run_seconds += time.perf_counter() - started
        self.length = total
        return logits

    def advance(self, tokens: np.ndarray, query: Query, images: ChunkImages | None = None) -> np.ndarray:
        logits: np.ndarray = self.forward(tokens, 1, images)[0]
        return logits

    def save(self, start: int, stop: int) -> np.ndarray:
        return self._state.save(start, stop)

    def _resize(self, capacity: int) -> None:
        self._state.reserve(capacity, self.length)
        self._tables.resize(capacity)

    def _write(self, payload: np.ndarray, start: int, stop: int) -> None:
        self._state.restore(payload, start, stop)

    def _free(self) -> None:
        self._state.release()

    def _step(self, tokens: np.ndarray, images: ChunkImages | None) -> Step:
        backend, start, count = self._backend, self.length, len(tokens)
        hidden_SC = backend.table.rows(tokens)
        inputs = {"cos": self._tables.cos[start : start + count], "sin": self._tables.sin[start : start + count]}
        for number, layer in enumerate(backend.addends, start=1):
            addend = np.zeros((1, *hidden_SC.shape), np.float32) if images is None else images.layers[number]
            inputs[f"deepstack_embeds.{layer}"] = np.ascontiguousarray(addend)
        if images is not None:
            hidden_SC = np.where(images.mask[0][:, None], images.layers[0][0], hidden_SC)
        in_place = backend.fixed_rows is not None
        bound = rounded_up(start + count if in_place else max(start, 1))
        if in_place:
            inputs[WRITE] = np.array([start], np.int64)
        for window in backend.windows:
            suffix = "" if window is None else f".{window}"
            if in_place:
                kind = backend.manifest.cache.dtype
                inputs[f"attention_bias{suffix}"] = whole_bias(start, count, bound, window, kind)
            else:
                past, new = biases(start, count, bound, window)
                inputs |= {f"past_bias{suffix}": past, f"new_bias{suffix}": new}
        return Step({"hidden_states": hidden_SC[None], **inputs}, start, bound)


def _check_positions(blocks: list[GraphFacts], positions: PositionSpec, folder: Path) -> None:
    """Raise BadInputError unless there are as many frequencies as the blocks rotate pairs of channels."""
    count = len(positions.inverse_frequencies)
    widths = {value.shape[-1] for graph in blocks for value in graph.inputs if value.name in ("cos", "sin")}
    if widths - {count} or len(positions.streams) != count:
        raise BadInputError(f"the rotary frequencies in {folder} do not fit its blocks: export the artifact again")


def biases(length: int, count: int, bound: int, window: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Biases of `count` new tokens behind `length` cached ones: float32 [S, bound] and [S, S]; 0 is seen.

    A `window` counts the token itself.
    """
    query_S1, past_P, new_S = np.arange(length, length + count)[:, None], np.arange(bound), np.arange(count) + length
    past = np.broadcast_to(past_P < length, (count, bound))
    new = new_S <= query_S1
    if window is not None:
        past, new = past & (past_P > query_S1 - window), new & (new_S > query_S1 - window)
    return tuple(_bias(seen, "float32") for seen in (past, new))  # type: ignore[return-value]


def whole_bias(length: int, count: int, bound: int, window: int | None, dtype: str) -> np.ndarray:
    """Bias of `count` new tokens that stand behind `length` others in the cache itself: `dtype` [1, 1, S, bound]."""
    query_S1, key_P = np.arange(length, length + count)[:, None], np.arange(bound)
    seen = key_P <= query_S1
    if window is not None:
        seen &= key_P > query_S1 - window
    return _bias(seen, dtype)[None, None]


def _bias(seen: np.ndarray, dtype: str) -> np.ndarray:
    return np.where(seen, 0.0, HIDDEN[dtype]).astype(dtype)


def block_graphs(manifest: Manifest, folder: Path) -> list[GraphFacts]:
    """The blocks in their order; raises BadInputError unless they hold every layer once and its cache.

    One head comes behind them.
    """
    parts = blocks_and_head(manifest)
    blocks, cache = parts[:-1], manifest.cache
    layers = [layer for graph in blocks for layer in graph.layers]
    sound = [graph.role for graph in parts] == ["block"] * len(blocks) + ["head"] and all(g.layers for g in blocks)
    sound &= cache.dtype in HIDDEN and len(layers) == cache.layers and layers == list(range(len(layers)))
    cached = [name for graph in blocks for name in _caches(graph)]
    sound &= sorted(cached) == sorted(f"{layer}.{kind}" for layer in layers for kind in cache.kinds)
    fixed = fixed_rows(blocks)
    rows = 1 if fixed is None else 2
    sound &= fixed is None or fixed >= manifest.model.context_length
    for graph in blocks:
        shapes = {value.name: value.shape for value in (*graph.inputs, *graph.outputs) if value.dtype == cache.dtype}
        for layer in graph.layers:
            for kind in cache.kinds:
                for name in ("past_key_values", "present"):
                    shape = list(shapes.get(f"{name}.{layer}.{kind}", [0, 0, 0]))
                    del shape[rows]
                    sound &= shape == [1, cache.kv_heads, cache.head_dim]
    if not sound:
        raise BadInputError(f"the blocks in {folder} do not make up the model of its manifest: export it again")
    return blocks


def expert_graphs(manifest: Manifest, blocks: list[GraphFacts], folder: Path) -> dict[int, GraphFacts]:
    """Graphs of experts by the block that they follow; raises BadInputError unless each block that asks has its own."""
    asking = {
        block.layers[-1]: number
        for number, block in enumerate(blocks)
        if any(value.name == EXPERTS_INPUT for value in block.outputs)
    }
    graphs = [graph for graph in manifest.graphs if graph.role == "experts"]
    names = [[value.name for value in (*graph.inputs, *graph.outputs)] for graph in graphs]
    listed = sorted(layer for graph in graphs for layer in graph.layers)
    if (
        listed != sorted(asking)
        or any(len(graph.layers) != 1 for graph in graphs)
        or any(found != [EXPERTS_INPUT, EXPERTS_OUTPUT] for found in names)
    ):
        raise BadInputError(f"the experts in {folder} do not go with its blocks: export it again")
    return {asking[graph.layers[0]]: graph for graph in graphs}


def _caches(graph: GraphFacts) -> list[str]:
    """The cache tensors of a block, as `layer.kind`."""
    return [value.name.removeprefix(PAST) for value in graph.inputs if value.name.startswith(PAST)]
