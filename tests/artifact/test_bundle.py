"""Opening an artifact checks every file once, and large ones as often as their stamps ask."""

import sys
from pathlib import Path

import pytest

from inference_pio.artifact import bundle
from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.hashing import StampCache
from inference_pio.errors import BadInputError

sys.path.insert(0, str(Path(__file__).parents[1]))
from artifact_cases import FILES, read, rewrite, write_artifact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "artifact")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed from now on; anything above 100 bytes counts as large."""
    names: list[str] = []
    original = bundle.hash_file
    monkeypatch.setattr(bundle, "LARGE_FILE_BYTES", 100)
    monkeypatch.setattr(bundle, "hash_file", lambda path: (names.append(path.name), original(path))[1])
    return names


def test_a_sound_artifact_opens(folder):
    artifact = Artifact.open(folder)
    assert artifact.path == folder
    assert set(artifact.manifest.files) == set(FILES)
    assert artifact.file("model.onnx").read_bytes() == b"graph"
    assert artifact.unlisted_files() == []
    assert Artifact.open(str(folder)).manifest == artifact.manifest


def test_opening_hashes_the_small_files_and_no_large_one(folder, hashed):
    artifact = Artifact.open(folder)
    assert sorted(hashed) == ["model.onnx", "tokenizer.json"]
    assert list(artifact.large_files) == ["model.onnx.data"]


def test_large_files_are_hashed_once_and_then_trusted(folder, hashed, tmp_path):
    stamps = StampCache(tmp_path / "cache")
    for count in (1, 1):
        Artifact.open(folder).check_large_files(stamps)
        assert hashed.count("model.onnx.data") == count


def test_without_stamps_they_are_always_hashed(folder, hashed, tmp_path):
    Artifact.open(folder).check_large_files(StampCache(tmp_path / "cache"))
    for count in (2, 3):
        Artifact.open(folder).check_large_files(None)
        assert hashed.count("model.onnx.data") == count


def test_a_failed_check_is_not_remembered(folder, hashed, tmp_path):
    data = folder / "model.onnx.data"
    data.write_bytes(data.read_bytes()[::-1])
    stamps = StampCache(tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(BadInputError, match=r"model\.onnx\.data has changed"):
            Artifact.open(folder).check_large_files(stamps)


def test_files_of_nobody_are_listed_and_refused_where_they_matter(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "notes.txt").write_text("x")
    (folder / "build-report.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("x")
    artifact = Artifact.open(folder)
    assert artifact.unlisted_files() == ["chat_template.jinja", "sub/notes.txt"]
    artifact.refuse_unlisted(["tokenizer.json", "generation_config.json"])
    with pytest.raises(BadInputError, match=r"chat_template\.jinja is not listed in manifest\.json"):
        artifact.refuse_unlisted(["tokenizer.json", "chat_template.jinja"])


def test_files_in_subfolders(tmp_path):
    folder = write_artifact(tmp_path / "artifact", {**FILES, "sub/part.onnx": b"part"})
    assert Artifact.open(folder).file("sub/part.onnx").read_bytes() == b"part"


def test_a_link_inside_the_folder_is_no_harm(folder):
    (folder / "model.onnx").rename(folder / "real")
    (folder / "model.onnx").symlink_to("real")
    assert Artifact.open(folder).file("model.onnx").read_bytes() == b"graph"


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert Artifact.open(tmp_path / "link").file("model.onnx").read_bytes() == b"graph"


@pytest.mark.parametrize("name", ["manifest.json", "missing", "model.onnx"])
def test_what_is_no_folder(folder, name):
    with pytest.raises(BadInputError, match="is not an artifact folder"):
        Artifact.open(folder / name)


def test_a_graph_that_no_file_stands_for(folder):
    values = read(folder)
    values["graphs"][0]["file"] = "other\n.onnx"
    rewrite(folder, values)
    with pytest.raises(BadInputError, match=r"names the graph 'other\\n.onnx', but lists no such file"):
        Artifact.open(folder)
