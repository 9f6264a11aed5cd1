"""Rows that a step over latents reads divide into halves of parts, and are hardly more than those in use."""

from __future__ import annotations

import pytest

from inference_pio.artifact.latent_rows import FEWEST_PARTS, PART_ROWS, rows_to_read


@pytest.mark.parametrize(
    ("total", "rows"),
    [(1, 1), (2047, 2047), (2048, 2048), (2049, 2052), (3071, 3072), (4096, 4096), (4097, 4104), (9215, 9216)],
)
def test_rows(total, rows):
    assert rows_to_read(total) == rows


def test_they_divide_and_cost_little():
    for total in range(FEWEST_PARTS * PART_ROWS, 12 * PART_ROWS):
        rows, parts = rows_to_read(total), total // PART_ROWS
        assert 0 <= rows - total < 2 * parts
        assert rows % (2 * (rows // PART_ROWS)) == 0
        assert rows // (rows // PART_ROWS) < 1.5 * PART_ROWS
