"""The ranges of shapes that an engine is built for: prefill and decode."""

from __future__ import annotations

from collections.abc import Mapping

from inference_pio.artifact.cache_rows import BUCKET
from inference_pio.artifact.manifest import GraphFacts
from inference_pio.errors import BadInputError
from inference_pio.runtime.backends.blocks import BIAS, PAST
from inference_pio.runtime.generation import CHUNK_TOKENS

Range = tuple[int, int, int]
"""Least, best and most."""
Profile = dict[str, tuple[list[int], list[int], list[int]]]
"""Least, best and largest shape by input."""
BEST_ROWS = 1024
"""Cache rows that kernels are chosen for, where the engine takes as many."""


def profiles(graph: GraphFacts, cache_rows: int) -> list[Profile]:
    """Prefill (2 to 128 new tokens, best at 128) and decode (1), over 256 to `cache_rows` rows of cache.

    Raises BadInputError for a graph with free dimensions besides new tokens and cache rows.
    """
    rows: Range = (BUCKET, min(BEST_ROWS, cache_rows), cache_rows)
    tokens: tuple[Range, ...] = ((2, CHUNK_TOKENS, CHUNK_TOKENS), (1, 1, 1))
    return [_profile(graph, {"tokens": each, "rows": rows}) for each in tokens]


def _profile(graph: GraphFacts, ranges: Mapping[str, Range]) -> Profile:
    named = _symbols(graph)
    profile: Profile = {}
    for value in graph.inputs:
        shapes: tuple[list[int], list[int], list[int]] = ([], [], [])
        for size in value.shape:
            if isinstance(size, str) and size not in named:
                raise BadInputError(
                    f"'{value.name}' of {graph.file} has a free dimension {size!r} that engines are not built for: "
                    "export the artifact again"
                )
            choices = (size,) * 3 if isinstance(size, int) else ranges[named[size]]
            for shape, choice in zip(shapes, choices, strict=True):
                shape.append(choice)
        profile[value.name] = shapes
    return profile


def _symbols(graph: GraphFacts) -> dict[str, str]:
    """What the free dimensions of a graph stand for: that of hidden states, and that of caches or what is read."""
    named: dict[str, str] = {}
    for value in graph.inputs:
        sizes = [size for size in value.shape if isinstance(size, str)]
        if value.name == "hidden_states":
            named |= dict.fromkeys(sizes, "tokens")
        elif value.name.startswith(PAST):
            named |= dict.fromkeys(sizes, "rows")
        elif value.name.startswith(BIAS):
            named |= dict.fromkeys(sizes[1:], "rows")
    return named
