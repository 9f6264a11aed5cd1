"""Hashes equal hashlib's; a stamp holds for one file as it stood, and for no other."""

import hashlib
import os
import sys
from pathlib import Path

import pytest

from inference_pio.artifact import hashing
from inference_pio.artifact.hashing import StampCache, hash_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from artifact_cases import hash_of


@pytest.mark.parametrize("size", [0, 1, 6, 7, 8, 100])
def test_hash_file(tmp_path, monkeypatch, size):
    monkeypatch.setattr(hashing, "CHUNK_BYTES", 7)
    data = bytes(range(256))[:size]
    (tmp_path / "f").write_bytes(data)
    found = hash_file(tmp_path / "f")
    assert (found.sha256, found.size) == (hashlib.sha256(data).hexdigest(), size)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"12345")
    return path


def trusted(cache: StampCache, path: Path, data: bytes = b"12345") -> bool:
    return cache.trusts(path, cache.stamp(path, hash_of(data)))


@pytest.fixture
def cache(tmp_path: Path, file: Path) -> StampCache:
    made = StampCache(tmp_path / "cache")
    assert not trusted(made, file)
    made.remember(file, made.stamp(file, hash_of(b"12345")))
    return made


def test_a_remembered_file_is_trusted(cache, file, tmp_path):
    assert trusted(cache, file)
    assert trusted(StampCache(tmp_path / "cache"), file)


def test_another_hash_is_not(cache, file):
    assert not trusted(cache, file, b"54321")


def test_a_file_written_again_is_not(cache, file):
    before = file.stat()
    file.write_bytes(b"54321")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert not trusted(cache, file)


def test_a_file_that_took_its_place_is_not(cache, file, tmp_path):
    before = file.stat()
    (tmp_path / "other").write_bytes(b"54321")
    os.utime(tmp_path / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "other").replace(file)
    assert not trusted(cache, file)


def test_a_file_elsewhere_is_not(cache, file, tmp_path):
    os.link(file, tmp_path / "linked")
    assert not trusted(cache, tmp_path / "linked")


def test_a_change_between_hashing_and_remembering_is_noticed(file, tmp_path):
    cache = StampCache(tmp_path / "cache")
    stamp = cache.stamp(file, hash_of(b"12345"))
    file.write_bytes(b"543210")
    cache.remember(file, stamp)
    assert not trusted(cache, file)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"{}", b'"x"', b"[" * 100_000])
def test_a_broken_stamp_counts_for_nothing(cache, file, tmp_path, content):
    (stamp,) = (tmp_path / "cache" / "stamps").iterdir()
    stamp.write_bytes(content)
    assert not trusted(cache, file)


def test_the_folder_is_private(cache, tmp_path):
    assert (tmp_path / "cache" / "stamps").stat().st_mode & 0o777 == 0o700


def test_a_cache_that_cannot_be_written_is_no_error(file, tmp_path):
    (tmp_path / "blocked").write_bytes(b"")
    cache = StampCache(tmp_path / "blocked")
    cache.remember(file, cache.stamp(file, hash_of(b"12345")))
    assert not trusted(cache, file)


def test_names_that_are_no_text(tmp_path):
    path = tmp_path / os.fsdecode(b"weights-\xff")
    path.write_bytes(b"12345")
    cache = StampCache(tmp_path / "cache")
    cache.remember(path, cache.stamp(path, hash_of(b"12345")))
    assert trusted(cache, path)
