"""The ranges of shapes that an engine is built for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inference_pio.artifact.cache_rows import BUCKET
from inference_pio.artifact.manifest import GraphFacts
from inference_pio.build.limits import Limits
from inference_pio.errors import BadInputError
from inference_pio.runtime.backends.blocks import BIAS, PAST
from inference_pio.runtime.backends.engine_store import Profile
from inference_pio.runtime.backends.tower import PIXELS
from inference_pio.runtime.generation import CHUNK_TOKENS

Range = tuple[int, int, int]
"""Least, best and most."""
BEST_ROWS = 1024
"""Cache rows that kernels are chosen for, where the engine takes as many."""
BEST_PATCHES = 1024
"""Patches that kernels are chosen for, where the engine takes as many: 512 x 512 pixels with patches of 16."""


def profiles(graph: GraphFacts, limits: Limits) -> list[Profile]:
    """The profiles of a graph's engine.

    A block has two, prefill (2 to 128 new tokens, best at 128) and decode (1), over 256 rows of cache and more; a
    vision tower one, for one image, or frame, of a token's patches and more. Raises BadInputError for a graph with
    other free dimensions.
    """
    rows: Range = (BUCKET, min(BEST_ROWS, limits.cache_rows), limits.cache_rows)
    if graph.role == "vision":
        least, most = limits.patches_per_token, (limits.image_tokens or 1) * limits.patches_per_token
        return [_profile(graph, {"images": (1, 1, 1), "patches": (least, min(BEST_PATCHES, most), most)})]
    tokens: tuple[Range, ...] = ((2, CHUNK_TOKENS, CHUNK_TOKENS), (1, 1, 1))
    return [_profile(graph, {"tokens": each, "rows": rows}) for each in tokens]


def covered(asked: Sequence[Profile], built: Sequence[Profile]) -> bool:
    """Whether an engine that was `built` takes every shape that is asked for, profile by profile."""
    if [profile.keys() for profile in asked] != [profile.keys() for profile in built]:
        return False
    return all(
        small <= least and most <= large
        for wanted, there in zip(asked, built, strict=True)
        for name in wanted
        for small, least, most, large in zip(
            there[name][0], wanted[name][0], wanted[name][2], there[name][2], strict=True
        )
    )


def _profile(graph: GraphFacts, ranges: Mapping[str, Range]) -> Profile:
    named = _symbols(graph)
    profile: dict[str, list[list[int]]] = {}
    for value in graph.inputs:
        shapes: list[list[int]] = [[], [], []]
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
    """What the free dimensions of a graph stand for: those of hidden states, of caches or what is read, of pixels."""
    named: dict[str, str] = {}
    for value in graph.inputs:
        sizes = [size for size in value.shape if isinstance(size, str)]
        if value.name == "hidden_states":
            named |= dict.fromkeys(sizes, "tokens")
        elif value.name.startswith(PAST):
            named |= dict.fromkeys(sizes, "rows")
        elif value.name.startswith(BIAS):
            named |= dict.fromkeys(sizes[1:], "rows")
        elif value.name == PIXELS:
            named |= dict(zip(sizes, ("images", "patches"), strict=False))
    return named
