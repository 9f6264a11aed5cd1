"""Text that arrives in pieces and may contain a marker such as `</think>`: how much of it is certain."""

from __future__ import annotations


def certain_length(text: str, *markers: str) -> int:
    """How much of `text`, which contains none of `markers`, stays what it is whatever comes next.

    Not certain are the beginning of a marker at the end, and white space in front of it: it belongs to the marker.
    """
    begun = max(_begun(text, marker) for marker in markers)
    return len(text[: len(text) - begun].rstrip())


def _begun(text: str, marker: str) -> int:
    """How many characters at the end of `text` begin the marker."""
    longest = min(len(marker) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(marker[:size])), 0)
