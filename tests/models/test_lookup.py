"""Where a plugin's artifact is looked for, in which order, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from inference_pio.errors import BadInputError
from inference_pio.models import glm_4_7_flash, qwen3_4b_instruct_2507
from inference_pio.models.lookup import VARIABLE, MissingArtifactError, find_artifact

sys.path.insert(0, str(Path(__file__).parents[1]))
from artifact_cases import FILES, manifest_of

CARD = qwen3_4b_instruct_2507.CARD


def put(folder: Path) -> Path:
    """A folder with the manifest of a qwen3 artifact, which is all that the search reads."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(manifest_of(FILES).to_bytes())
    return folder


def test_the_order(nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    default = put(nowhere / "artifacts" / CARD.name)
    assert find_artifact(CARD).path.resolve() == default
    monkeypatch.setenv(VARIABLE, str(tmp_path / "shared"))
    assert find_artifact(CARD).path.resolve() == default
    shared = put(tmp_path / "shared" / CARD.name)
    assert find_artifact(CARD).path == shared
    explicit = put(tmp_path / "mine")
    assert find_artifact(CARD, explicit).path == explicit
    monkeypatch.setenv(VARIABLE, "")
    assert find_artifact(CARD).path.resolve() == default


def test_nothing_found_names_the_command(monkeypatch: pytest.MonkeyPatch):
    command = "`inference-pio export Qwen/Qwen3-4B-Instruct-2507 -o artifacts/qwen3_4b_instruct_2507 --precision int8"
    with pytest.raises(MissingArtifactError) as caught:
        find_artifact(CARD)
    assert command in str(caught.value) and "in artifacts/qwen3_4b_instruct_2507:" in str(caught.value)
    monkeypatch.setenv(VARIABLE, "/no/such")
    with pytest.raises(BadInputError, match="in /no/such/qwen3_4b_instruct_2507 or artifacts/qwen3_4b"):
        find_artifact(CARD)


def test_an_explicit_path_is_the_only_place(nowhere: Path):
    put(nowhere / "artifacts" / CARD.name)
    with pytest.raises(BadInputError, match="no artifact of qwen3_4b_instruct_2507 in elsewhere"):
        find_artifact(CARD, Path("elsewhere"))


def test_an_artifact_of_another_architecture_is_refused(tmp_path: Path):
    folder = put(tmp_path / "artifact")
    with pytest.raises(BadInputError, match="is an artifact of a qwen3 model, and glm_4_7_flash is one of glm4_moe_li"):
        find_artifact(glm_4_7_flash.CARD, folder)


def test_a_damaged_artifact_does_not_make_the_search_go_on(
    nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    put(nowhere / "artifacts" / CARD.name)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / CARD.name).mkdir()
    with pytest.raises(BadInputError, match="is not an artifact: it has no manifest"):
        find_artifact(CARD)
