"""Folders of derived files: nobody else writes there, and the oldest go."""

import os
from pathlib import Path

import pytest

from inference_pio.errors import BadInputError
from inference_pio.runtime.derived_files import check_private, drop_old, folder_name, make_private


def test_a_name_depends_on_artifact_and_machine():
    names = {folder_name(mark * 32, {"gpu": gpu}) for mark in "ab" for gpu in ("one", "two")}
    assert len(names) == 4 and all(name[:17] in ("a" * 16 + "-", "b" * 16 + "-") for name in names)


def test_folders_are_made_private(tmp_path):
    outer, inner = tmp_path / "outer", tmp_path / "outer" / "inner"
    make_private(outer, inner)
    make_private(outer, inner)
    assert [folder.stat().st_mode & 0o777 for folder in (outer, inner)] == [0o700, 0o700]


def test_a_folder_that_others_can_write_to_is_refused(tmp_path):
    inner = tmp_path / "inner"
    make_private(inner)
    inner.chmod(0o770)
    for check in (check_private, make_private):
        with pytest.raises(BadInputError, match=r"others can write to .*inner"):
            check(inner)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match="cannot be written"):
        make_private(tmp_path / "file")


def test_the_last_used_are_kept(tmp_path):
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        mark = tmp_path / str(number) / "mark"
        mark.touch()
        os.utime(mark, (100 - number, 100 - number))
    (tmp_path / "other").mkdir()
    drop_old(tmp_path, "mark", 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "other"]


def test_a_folder_that_another_process_removes_meanwhile(tmp_path, monkeypatch):
    for name in ("old", "new"):
        make_private(tmp_path / name)
        (tmp_path / name / "mark").touch()
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda root, pattern: [root / "gone" / "mark", *glob(root, pattern)])
    drop_old(tmp_path, "mark", 1)
    assert len(list(tmp_path.iterdir())) == 1
