"""Cache rows come in whole buckets: graphs, engines and the runtime agree on it here."""

from __future__ import annotations

BUCKET = 256
"""Cache rows are bound in multiples of this, and at least as many."""


def rounded_up(rows: int) -> int:
    """A number of cache rows that can be bound."""
    return -(-rows // BUCKET) * BUCKET
