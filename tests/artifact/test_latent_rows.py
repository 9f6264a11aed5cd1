"""Rows that a step over latents reads divide into halves of parts, and are hardly more than those in use."""

from __future__ import annotations

import pytest

from inference_pio.artifact.latent_rows import PART_ROWS, parts_of, rows_to_read


@pytest.mark.parametrize(
    ("total", "rows"),
    [(1, 2), (2, 2), (511, 512), (1023, 1024), (1025, 1028), (2047, 2048), (4096, 4096), (4097, 4112), (4607, 4608)],
)
def test_rows(total, rows):
    assert rows_to_read(total) == rows


def test_they_divide_and_cost_little():
    for total in range(1, 12 * PART_ROWS):
        rows, halves = rows_to_read(total), 2 * parts_of(total)
        assert rows % (2 * parts_of(rows)) == 0
        assert 0 <= rows - total < halves
        assert rows // (2 * parts_of(rows)) <= PART_ROWS
