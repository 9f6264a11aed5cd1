"""A file is written completely or not at all."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import BinaryIO

import pytest

from inference_pio.artifact.files import write_atomically
from inference_pio.errors import BadInputError, ResourceLimitError


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"old")
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("code", "expected"), [(errno.ENOSPC, ResourceLimitError), (errno.EIO, BadInputError)])
def test_after_a_failure_the_old_file_stands(tmp_path: Path, code: int, expected: type[Exception]) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(code, "failed")

    with pytest.raises(expected, match=r"report\.json"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "report.json", tmp_path):
        with pytest.raises(BadInputError, match="cannot be written"):
            write_atomically(path, lambda file: file.write(b"new"))
