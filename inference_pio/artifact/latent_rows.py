"""How many rows of a cache of latents a step over one token reads: graphs and the runtime agree on it here.

A decoder reads the rows of a long context in parts, so that the mix of a part finds its rows where the scores of that
part left them, in the processor's caches. Parts are of one size, and each is two halves that threads share. A graph
does without parts where the rows that it is given do not divide so; the runtime rounds up to rows that do.
"""

from __future__ import annotations

PART_ROWS = 1024
"""A context has as many parts as this number goes into its rows; 1,024 rows of 576 channels are 2.4 MB."""

FEWEST_PARTS = 2
"""With fewer of them, parts cost more than they save."""


def rows_to_read(total: int) -> int:
    """The least number of rows >= `total` that divides into two halves of every part; at most a row per half more."""
    parts = total // PART_ROWS
    if parts < FEWEST_PARTS:
        return total
    return min(-(-total // (2 * parts)) * 2 * parts, (parts + 1) * PART_ROWS)
