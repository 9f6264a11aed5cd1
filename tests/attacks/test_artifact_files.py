"""Artifacts in hostile surroundings: special files, links, rights, words for the terminal."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.cli.main import run
from inference_pio.errors import BadInputError
from inference_pio.runtime import Engine

sys.path.insert(0, str(Path(__file__).parents[1]))
from artifact_cases import read, rewrite

ESCAPE = "\x1b[2J\x07"


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "model.onnx.data", "tokenizer.json"])
@pytest.mark.parametrize(
    "kind", ["pipe", "device", "folder", "endless link", "link out", "link to the root", "dangling link"]
)
def test_special_files_neither_hang_nor_pass(artifact, name, kind, refuse):
    path = artifact / name
    original = path.rename(artifact.parent / "original")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        leading_out = {"link out": original, "link to the root": "/", "dangling link": "../missing"}
        path.symlink_to({"device": "/dev/zero", "endless link": path, **leading_out}[kind])
    refuse(artifact, name.replace(".", r"\."))


def test_a_link_out_is_named_as_such(artifact, refuse):
    for name in ("manifest.json", "model.onnx.data"):
        (artifact / name).rename(artifact.parent / name)
        (artifact / name).symlink_to(artifact.parent / name)
        refuse(artifact, f"{name} is a link that leads out of the artifact")
        (artifact / name).unlink()
        (artifact.parent / name).rename(artifact / name)
    Engine.open(artifact).close()


def test_words_that_a_terminal_would_obey(artifact, capsys):
    values = read(artifact)
    values["source"]["name"] = f"innocent{ESCAPE}"
    values["accuracy"] = {"gate": f"int8{ESCAPE}", "passed": True, "metrics": {}, "failures": []}
    rewrite(artifact, values)
    (artifact / f"note{ESCAPE}\n.txt").write_text("x")
    (artifact / os.fsdecode(b"\xff")).write_text("x")
    assert run(["inspect", str(artifact)]) == 0
    out = capsys.readouterr().out
    assert "innocent\\x1b[2J\\x07" in out
    assert ESCAPE not in out
    assert run(["inspect", str(artifact), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["manifest"]["source"]["name"] == f"innocent{ESCAPE}"


def test_errors_stay_on_one_line(artifact, capsys):
    values = read(artifact)
    values["graphs"][0]["file"] = f"x{ESCAPE}\nerror: all is well"
    rewrite(artifact, values)
    for arguments in (["inspect", str(artifact)], ["generate", str(artifact / "no\nsuch\x1bplace"), "-p", "x"]):
        assert run(arguments) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert err.startswith("error: ")
        assert err[:-1].isprintable()


def test_link_that_stays_inside(artifact):
    (artifact / "tokenizer.json").rename(artifact / "real.json")
    (artifact / "tokenizer.json").symlink_to("real.json")
    Engine.open(artifact).close()


@pytest.mark.parametrize("name", ["model.onnx.data", "tokenizer.json", "manifest.json"])
def test_missing_file(artifact, name, refuse):
    (artifact / name).unlink()
    refuse(artifact, name)


@pytest.fixture
def unprivileged(artifact: Path):
    """Give up the rights of root, if we have them, until the end of the test."""
    folders = [*list(artifact.parents)[:3]]
    modes = [(folder, folder.stat().st_mode & 0o7777) for folder in folders]

    def drop() -> None:
        if os.geteuid() == 0:
            for folder, mode in modes:
                folder.chmod(mode | 0o055)
            os.seteuid(65534)

    yield drop
    if os.geteuid() == 65534:
        os.seteuid(0)
        for folder, mode in modes:
            folder.chmod(mode)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "tokenizer.json"])
def test_files_that_may_not_be_read(artifact, name, unprivileged):
    (artifact / name).chmod(0)
    unprivileged()
    with pytest.raises(BadInputError, match=rf"{name} cannot be read: Permission denied"):
        Artifact.open(artifact)


def test_a_folder_that_may_not_be_entered(artifact, unprivileged):
    artifact.chmod(0)
    unprivileged()
    with pytest.raises(BadInputError, match="Permission denied"):
        Artifact.open(artifact)
    os.seteuid(0) if os.geteuid() == 65534 else None
    artifact.chmod(0o755)
