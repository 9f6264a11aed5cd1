"""What a person wants to see of a comparison: the worst places, the first difference, and how KL is spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from inference_pio.verify.metrics import PositionTable, summarise
from inference_pio.verify.windows import Windows

Decode = Callable[[Sequence[int]], str]

CONTEXT_TOKENS = 32
WORST = 10
OFFSET_BINS = 16
LOWEST_DECADE, HIGHEST_DECADE = -12, 2


def worst_positions(table: PositionTable, windows: Windows, decode: Decode) -> list[dict[str, Any]]:
    """The positions of largest KL, worst first, each with its text."""
    order = np.argsort(-table.kl, kind="stable")[:WORST]
    return [_place(int(position), table, windows, decode) for position in order]


def first_divergence(table: PositionTable, windows: Windows, decode: Decode) -> dict[str, Any] | None:
    """The first position, in the order of the text, where the two models prefer different tokens; None if nowhere.

    Up to there, greedy decoding from the same window would write the same tokens as the text suggests.
    """
    different = np.flatnonzero(~table.agrees)
    return _place(int(different[0]), table, windows, decode) if len(different) else None


def by_window(table: PositionTable, windows: Windows, clear_gap: float) -> list[dict[str, Any]]:
    """Figures of every window; `first_divergence` is an offset in the window or None."""
    rows = []
    for start in windows.starts:
        part = PositionTable(**{name: a[start : start + windows.window] for name, a in vars(table).items()})
        different = np.flatnonzero(~part.agrees)
        rows.append(
            {
                **summarise(part, clear_gap).to_dict(),
                "first_divergence": int(different[0]) if len(different) else None,
            }
        )
    return rows


def by_offset(table: PositionTable, windows: Windows) -> list[dict[str, Any]]:
    """Mean KL by the place in the window, in at most 16 equal stretches: does an error grow with the context?"""
    offset = np.arange(table.positions) % windows.window
    longest = int(offset.max()) + 1
    step = math.ceil(longest / OFFSET_BINS)
    stretches = []
    for start in range(0, longest, step):
        inside = (offset >= start) & (offset < start + step)
        stop = min(start + step, longest)
        stretches.append({"start": start, "stop": stop, "kl_mean": float(table.kl[inside].mean())})
    return stretches


def histogram(kl: np.ndarray) -> dict[str, list[float] | list[int]]:
    """Positions by KL in half decades: `edges` (log10, one more than `counts`); the ends take what lies beyond."""
    edges = np.arange(LOWEST_DECADE, HIGHEST_DECADE + 0.5, 0.5)
    with np.errstate(divide="ignore"):
        logs = np.clip(np.log10(kl), edges[0], edges[-1])
    counts, _ = np.histogram(logs, bins=edges)
    return {"edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]}


def _place(position: int, table: PositionTable, windows: Windows, decode: Decode) -> dict[str, Any]:
    window, offset = divmod(position, windows.window)
    first = max(window * windows.window, position + 1 - CONTEXT_TOKENS)
    return {
        "window": window,
        "offset": offset,
        "kl": float(table.kl[position]),
        "gap": float(table.gap[position]),
        "context": decode([int(token) for token in windows.stream[first : position + 1]]),
        "next": decode([int(windows.stream[position + 1])]),
        "original_prefers": decode([int(table.reference_top[position])]),
        "artifact_prefers": decode([int(table.candidate_top[position])]),
        "next_probability_original": float(np.exp(-table.reference_nll[position])),
        "next_probability_artifact": float(np.exp(-table.candidate_nll[position])),
    }
