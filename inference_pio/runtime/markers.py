"""Text that arrives in pieces and may contain a marker such as `</think>`: how much of it is certain."""

from __future__ import annotations


def certain_length(text: str, marker: str) -> int:
    """How much of `text`, which does not contain `marker`, stays what it is whatever comes next.

    Not certain are the beginning of a marker at the end, and white space in front of it: it belongs to the marker.
    """
    longest = min(len(marker) - 1, len(text))
    begun = next((size for size in range(longest, 0, -1) if text.endswith(marker[:size])), 0)
    return len(text[: len(text) - begun].rstrip())
