"""Bytes for later: in memory or in a file, they come back as they were."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from inference_pio.errors import ResourceLimitError
from inference_pio.export import side_bytes
from inference_pio.export.side_bytes import SideBytes


@pytest.mark.parametrize("in_memory", [1, 100, 10_000])
@pytest.mark.parametrize("chunk", [1, 64, 1 << 20])
def test_they_come_back(tmp_path, monkeypatch, in_memory, chunk):
    monkeypatch.setattr(side_bytes, "IN_MEMORY", in_memory)
    monkeypatch.setattr(side_bytes, "CHUNK_BYTES", chunk)
    pieces = [np.random.default_rng(n).bytes(n) for n in (0, 7, 200, 1)]
    side = SideBytes(tmp_path)
    for piece in pieces:
        side.write(piece)
    assert side.size == 208
    found = list(side.chunks())
    assert b"".join(found) == b"".join(pieces)
    assert max(map(len, found)) <= chunk
    assert list(tmp_path.iterdir()) == []


def test_none_at_all(tmp_path):
    assert list(SideBytes(tmp_path).chunks()) == []


def test_a_full_disk(tmp_path, monkeypatch):
    side = SideBytes(tmp_path)

    def full(data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(side._file, "write", full)
    with pytest.raises(ResourceLimitError):
        side.write(b"x")
