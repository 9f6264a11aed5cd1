import hashlib
import os
from pathlib import Path

import pytest

from inference_pio.checkpoint import files
from inference_pio.errors import BadInputError


def test_regular_files_and_links_to_them_open(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").symlink_to("a")
    for name in ("a", "b"):
        descriptor, size = files.open_regular(tmp_path / name)
        os.close(descriptor)
        assert size == 5


def test_what_is_no_regular_file_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dead").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    expected = {
        "pipe": "not a regular file",
        "folder": "not a regular file",
        "dead": "link to a file that is gone",
        "loop": "cannot be opened",
        "absent": "is missing",
        "nul\0": "cannot be opened",
        "x" * 300: "cannot be opened",
    }
    for name, words in expected.items():
        with pytest.raises(BadInputError, match=words):
            files.open_regular(tmp_path / name)


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_descriptors_do_not_leak(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "folder").mkdir()
    before = open_descriptors()
    files.read_small(tmp_path / "a", 5)
    files.hash_files([tmp_path / "a"])
    for name, limit in (("a", 4), ("folder", 4)):
        with pytest.raises(BadInputError):
            files.read_small(tmp_path / name, limit)
    assert open_descriptors() == before


def test_hashes_span_chunks_and_report_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "HASH_CHUNK_BYTES", 1000)
    contents = {"a": os.urandom(2500), "b": b"", "c": os.urandom(1000)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    calls: list[tuple[int, int]] = []
    hashes = files.hash_files([tmp_path / name for name in contents], lambda *call: calls.append(call))
    assert hashes == {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for name, content in contents.items()
    }
    assert calls == [(1000, 3500), (2000, 3500), (2500, 3500), (3500, 3500)]
