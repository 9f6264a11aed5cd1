from pathlib import Path

import pytest

from inference_pio.checkpoint.location import default_hub_cache, find_folder
from inference_pio.errors import BadInputError

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    repository = tmp_path / "hub" / "models--org--name"
    (repository / "snapshots" / REVISION).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(f"{REVISION}\n")
    return tmp_path / "hub"


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert find_folder(tmp_path, None) == tmp_path
    assert find_folder(str(tmp_path), None) == tmp_path


def test_a_hub_id_leads_to_the_snapshot_of_main(cache: Path) -> None:
    assert find_folder("org/name", cache) == cache / "models--org--name" / "snapshots" / REVISION


def test_an_id_without_organisation(cache: Path) -> None:
    (cache / "models--org--name").rename(cache / "models--gpt2")
    assert find_folder("gpt2", cache).parts[-3:] == ("models--gpt2", "snapshots", REVISION)


def test_the_default_cache_is_in_the_home_folder(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_hub_cache() == tmp_path / ".cache/huggingface/hub"
    default_hub_cache().parent.mkdir(parents=True)
    cache.rename(default_hub_cache())
    assert find_folder("org/name", None).name == REVISION


def test_an_existing_folder_wins(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_folder("org/name", cache) == Path("org/name")


def test_an_absent_hub_id_says_how_to_get_it(cache: Path) -> None:
    with pytest.raises(BadInputError, match="hf download org/other"):
        find_folder("org/other", cache)


def test_a_path_is_never_a_hub_id(cache: Path) -> None:
    with pytest.raises(BadInputError, match="there is no folder"):
        find_folder(Path("org/name"), cache)


@pytest.mark.parametrize(
    "source",
    ["", "./org/name", "/org/name", "~/name", "a/b/c", "../name", "org/..", "a..b", "org\\name", "a b", "\0", "é/x"],
)
def test_what_cannot_be_a_hub_id_is_a_missing_folder(
    cache: Path, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match="there is no folder"):
        find_folder(source, cache)


def test_impossible_paths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BadInputError, match="is a file; give the folder"):
        find_folder(tmp_path / "model.safetensors", None)
    with pytest.raises(BadInputError, match="cannot be opened"):
        find_folder(tmp_path / ("x" * 300), None)


@pytest.mark.parametrize("revision", ["", "../../..", "a/b", ".", "..", "\udcff", "x\0y", "a b"])
def test_a_reference_cannot_lead_elsewhere(cache: Path, revision: str) -> None:
    main = cache / "models--org--name" / "refs" / "main"
    main.write_bytes(revision.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadInputError, match="does not hold a revision"):
        find_folder("org/name", cache)


def test_an_incomplete_cache_says_what_is_missing(cache: Path) -> None:
    repository = cache / "models--org--name"
    (repository / "snapshots" / REVISION).rename(repository / "snapshots" / "other")
    with pytest.raises(BadInputError, match=f"lacks revision {REVISION} .*hf download"):
        find_folder("org/name", cache)
    (repository / "refs" / "main").unlink()
    with pytest.raises(BadInputError, match=r"no main revision .*folder of another revision"):
        find_folder("org/name", cache)
