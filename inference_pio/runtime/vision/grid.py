"""What follows from the size of an image alone: the places of its patches, and the positions of its tokens.

Arithmetic is float32 in the order in which transformers does it (`transformers.vision_utils`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Patches of an image: `frames` times `height` times `width`; an image that stands still has one frame."""

    frames: int
    height: int
    width: int

    @property
    def frame_patches(self) -> int:
        """Patches of one frame."""
        return self.height * self.width

    def frame_tokens(self, merge: int) -> int:
        """Tokens of one frame, where `merge` x `merge` patches make one."""
        return self.frame_patches // merge**2


@dataclass(frozen=True)
class Span:
    """One image, or frame of a video, in a prompt: its first token, and its patches high and wide."""

    start: int
    height: int
    width: int

    def tokens(self, merge: int) -> int:
        """How many tokens it takes."""
        return self.height * self.width // merge**2


def patch_positions(height: int, width: int, merge: int) -> np.ndarray:
    """Row and column of the patches of a frame, int64 [P, 2]: token by token, each token's patches row by row."""
    places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)
    blocks = places.reshape(height // merge, merge, width // merge, merge, 2)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3, 4).reshape(-1, 2), np.int64)


def position_taps(height: int, width: int, merge: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of the `side` x `side` learned positions make up those of a frame's patches, and with which weights.

    int64 and float32 [P, 4], in the order of `patch_positions`: bilinear, the corners of table and frame aligned.
    """
    places = patch_positions(height, width, merge)
    row_taps, row_weights = _axis_taps(places[:, 0], height, side)
    column_taps, column_weights = _axis_taps(places[:, 1], width, side)
    indices = (row_taps[:, :, None] * side + column_taps[:, None, :]).reshape(-1, 4)
    weights = (row_weights[:, :, None] * column_weights[:, None, :]).reshape(-1, 4)
    return indices, weights


def _axis_taps(index: np.ndarray, size: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    source = index.astype(np.float32) * np.float32(side - 1) / np.float32(max(size - 1, 1))
    floor, offsets = np.floor(source), np.arange(2)
    taps = np.clip(floor.astype(np.int64)[:, None] + offsets, 0, side - 1)
    distance = np.abs(source[:, None] - floor[:, None] - offsets.astype(np.float32))
    return taps, np.clip(np.float32(1) - distance, 0, None)


def token_positions(length: int, spans: Sequence[Span], merge: int) -> tuple[np.ndarray, int]:
    """The three positions of every token of a prompt, int64 [3, length], and what later tokens' positions run ahead.

    Text counts on by one in all three. The tokens of an image share the first, count rows in the second and columns in
    the third, and the text after it goes on behind the larger of the two. Generated tokens stand at their index plus
    the second result.
    """
    positions = np.empty((3, length), np.int64)
    token = position = 0
    for span in spans:
        text = span.start - token
        positions[:, token : span.start] = np.arange(position, position + text)
        position += text
        rows, columns = span.height // merge, span.width // merge
        stop = span.start + rows * columns
        positions[0, span.start : stop] = position
        positions[1, span.start : stop] = position + np.repeat(np.arange(rows), columns)
        positions[2, span.start : stop] = position + np.tile(np.arange(columns), rows)
        position += max(rows, columns)
        token = stop
    positions[:, token:] = np.arange(position, position + length - token)
    highest = int(positions.max(initial=-1))
    return positions, highest + 1 - length
