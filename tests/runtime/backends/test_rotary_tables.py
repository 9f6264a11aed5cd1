"""Rows of rotary angles follow the tokens' positions, and grow, and forget."""

from __future__ import annotations

import numpy as np

from inference_pio.artifact.manifest import PositionSpec
from inference_pio.runtime.backends.rotary_tables import RotaryTables

SPEC = PositionSpec([1.0, 0.5, 0.25, 0.125], [0, 1, 2, 0], 1.5)


def rows(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of [3, n] positions, written out."""
    angles = np.array(
        [
            [positions[s, n] * f for s, f in zip(SPEC.streams, SPEC.inverse_frequencies, strict=True)]
            for n in range(positions.shape[1])
        ]
    )
    return 1.5 * np.cos(angles), 1.5 * np.sin(angles)


def assert_rows(tables: RotaryTables, positions: np.ndarray) -> None:
    for found, expected in zip((tables.cos, tables.sin), rows(positions), strict=True):
        assert found.shape == expected.shape and found.dtype == np.float32
        assert np.allclose(found, expected, atol=1e-6)


def test_text_stands_at_its_index():
    tables = RotaryTables(SPEC)
    tables.resize(6)
    assert_rows(tables, np.tile(np.arange(6), (3, 1)))


def test_placed_tokens_and_those_after_them():
    tables = RotaryTables(SPEC)
    tables.resize(6)
    placed = np.array([[0, 1, 1, 1], [0, 1, 2, 2], [0, 2, 1, 3]])
    tables.place(placed, -2)
    after = np.concatenate([placed, np.tile([2, 3], (3, 1))], axis=1)
    assert_rows(tables, after)
    tables.resize(8)
    assert_rows(tables, np.concatenate([after, np.tile([4, 5], (3, 1))], axis=1))


def test_placing_before_there_is_room():
    tables = RotaryTables(SPEC)
    placed = np.array([[0, 1], [0, 2], [0, 3]])
    tables.place(placed, 5)
    tables.resize(3)
    assert_rows(tables, np.concatenate([placed, [[7]] * 3], axis=1))


def test_forgetting():
    tables = RotaryTables(SPEC)
    tables.resize(4)
    tables.place(np.array([[9, 9], [8, 8], [7, 7]]), 3)
    tables.place(np.zeros((3, 0), np.int64), 0)
    assert_rows(tables, np.tile(np.arange(4), (3, 1)))
