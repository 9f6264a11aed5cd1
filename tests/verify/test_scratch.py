"""Logits on disk."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from inference_pio.errors import ResourceLimitError
from inference_pio.verify import scratch
from inference_pio.verify.passes import ARTIFACT_ALONE, Passes, twin_positions


def test_rows_and_columns_land_where_they_belong(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).normal(size=(7, 11)).astype(np.float32)
    with scratch.LogitsFile(tmp_path, 7, 11) as file:
        file.write(0, 0, whole[:3])
        file.write(3, 5, whole[3:, 5:])
        file.write(3, 0, whole[3:, :5])
        assert (file.read(0, 7) == whole).all()
        assert (file.read(2, 5) == whole[2:5]).all()


def test_a_transposed_block_is_stored_as_it_reads(tmp_path: Path) -> None:
    block = np.arange(6, dtype=np.float32).reshape(3, 2).T
    with scratch.LogitsFile(tmp_path, 2, 3) as file:
        file.write(0, 0, block)
        assert (file.read(0, 2) == block).all()


@pytest.mark.parametrize("place", [(-1, 0), (0, -1), (6, 0), (0, 10)])
def test_a_block_outside_the_file_is_refused(tmp_path: Path, place: tuple[int, int]) -> None:
    with scratch.LogitsFile(tmp_path, 7, 11) as file, pytest.raises(ValueError, match="does not fit"):
        file.write(*place, np.zeros((2, 2), dtype=np.float32))


def test_reading_what_was_not_written_is_an_error(tmp_path: Path) -> None:
    with scratch.LogitsFile(tmp_path, 4, 3) as file:
        file.write(0, 0, np.zeros((2, 3), dtype=np.float32))
        with pytest.raises(ValueError, match="not written"):
            file.read(1, 3)


def test_nothing_is_left_in_the_folder_even_while_it_is_used(tmp_path: Path) -> None:
    with scratch.Scratch(tmp_path, 3, ARTIFACT_ALONE) as files:
        files.open(4).write(0, 0, np.zeros((4, 3), dtype=np.float32))
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("passes", "rows"),
    [
        (ARTIFACT_ALONE, 5000),
        (Passes(reference=True, simulation=False, twin=False), 10_000),
        (Passes(reference=True, simulation=True, twin=True), 15_000 + 1000),
    ],
)
def test_all_passes_must_fit_before_the_first_begins(
    passes: Passes, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = scratch.Scratch(tmp_path, 100, passes)
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda folder: SimpleNamespace(free=rows * 100 * 4))
    files.require(5000, 500)
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda folder: SimpleNamespace(free=rows * 100 * 4 - 1))
    with pytest.raises(ResourceLimitError, match="scratch space"):
        files.require(5000, 500)


@pytest.mark.parametrize(
    ("positions", "window", "expected"), [(4096, 512, 1024), (4096, 500, 1000), (300, 512, 300), (9000, 3000, 3000)]
)
def test_the_twin_has_whole_windows(positions: int, window: int, expected: int) -> None:
    assert twin_positions(positions, window) == expected


def test_a_full_disk_is_a_resource_limit(tmp_path: Path) -> None:
    class Full:
        def seek(self, place: int) -> None:
            pass

        def write(self, data: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    with scratch.LogitsFile(tmp_path, 1, 2) as file:
        file._file.close()
        file._file = Full()  # type: ignore[assignment]
        with pytest.raises(ResourceLimitError, match="no space left"):
            file.write(0, 0, np.zeros((1, 2), dtype=np.float32))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceLimitError, match="nowhere"):
        scratch.Scratch(tmp_path / "nowhere", 3, ARTIFACT_ALONE).open(1)


@pytest.mark.parametrize(("positions", "vocabulary"), [(1, 1), (5, 10**9), (100, 3), (0, 3)])
def test_spans_cover_every_position_once(positions: int, vocabulary: int) -> None:
    covered = [p for start, stop in scratch.spans(positions, vocabulary) for p in range(start, stop)]
    assert covered == list(range(positions))
