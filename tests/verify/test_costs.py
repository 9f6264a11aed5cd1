"""What a verification is expected to need."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_pio.errors import BadInputError
from inference_pio.export.pipeline import export
from inference_pio.verify import VerifyOptions, estimate

sys.path.insert(0, str(Path(__file__).parents[1]))
from shapes import write_shape

Make = Callable[[str], Path]
ROW = 2048 * 4


@pytest.mark.parametrize(
    ("precision", "options", "rows"),
    [
        ("fp32", VerifyOptions(), 2 * 10_240),
        ("fp16", VerifyOptions(), 3 * 4096),
        ("int8", VerifyOptions(), 3 * 4096 + 1024),
        ("int8", VerifyOptions(simulation=False), 2 * 4096),
        ("int8", VerifyOptions(window=64, positions=192), 4 * 192),
        ("int8", VerifyOptions(window=100, positions=250), 4 * 300),
        ("int8", VerifyOptions(window=10_000, positions=5000), 3 * 8192 + 4096),
    ],
)
def test_the_disk_is_known_beforehand(
    precision: str, options: VerifyOptions, rows: int, tiny: Path, tiny_artifact: Make
) -> None:
    assert estimate(tiny_artifact(precision), tiny, options).scratch_bytes == rows * ROW


def test_a_saved_reference_needs_one_pass_and_no_checkpoint(tiny_artifact: Make) -> None:
    found = estimate(tiny_artifact("int8"), None, VerifyOptions(reference=Path("saved.npz")))
    assert found.scratch_bytes == 4096 * ROW
    assert found.positions == 4096


def test_memory_is_that_of_the_largest_pass(tiny: Path, tiny_artifact: Make) -> None:
    small = estimate(tiny_artifact("int8"), tiny).peak_memory_bytes
    assert 400e6 < small < 800e6  # torch and transformers alone
    assert estimate(tiny_artifact("int8"), tiny, VerifyOptions(positions=10**6)).peak_memory_bytes > 2 * small


def test_experts_are_counted_one_at_a_time(tmp_path: Path) -> None:
    """Twice the experts, the same memory."""
    peaks = []
    for count in (6, 12):
        path = write_shape("moe", tmp_path / str(count), num_experts=count, moe_intermediate_size=4096)
        export(path, tmp_path / f"{count}.out")
        peaks.append(estimate(tmp_path / f"{count}.out", path, VerifyOptions(simulation=False)).peak_memory_bytes)
    one_expert = 3 * 4096 * 96 * 4
    assert abs(peaks[1] - peaks[0]) < one_expert


def test_what_cannot_be_opened_is_named(tiny: Path, tmp_path: Path, tiny_artifact: Make) -> None:
    with pytest.raises(BadInputError):
        estimate(tmp_path, tiny)
    with pytest.raises(BadInputError):
        estimate(tiny_artifact("int8"), tmp_path)
