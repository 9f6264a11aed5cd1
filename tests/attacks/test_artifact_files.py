"""Artifacts in hostile surroundings: special files, links, rights, words for the terminal, lying manifests."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.cli.main import run
from inference_pio.errors import BadInputError
from inference_pio.runtime import Engine, EngineConfig, SamplingParams

sys.path.insert(0, str(Path(__file__).parents[1]))
from artifact_cases import read, rehash, rewrite

ESCAPE = "\x1b[2J\x07"


@pytest.fixture
def artifact(tiny_artifact: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_artifact("int8"), tmp_path / "artifact"))


def refuse(folder: Path, words: str) -> str:
    with pytest.raises(BadInputError, match=words) as caught:
        Engine.open(folder).close()
    return str(caught.value)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "model.onnx.data", "tokenizer.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "endless link", "link out", "link to the root"])
def test_special_files_neither_hang_nor_pass(artifact, name, kind):
    path = artifact / name
    original = path.rename(artifact.parent / "original")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        targets = {"device": "/dev/zero", "endless link": path, "link out": original, "link to the root": "/"}
        path.symlink_to(targets[kind])
    refuse(artifact, name.replace(".", r"\."))


def test_a_link_out_is_named_as_such(artifact):
    for name in ("manifest.json", "model.onnx.data"):
        (artifact / name).rename(artifact.parent / name)
        (artifact / name).symlink_to(artifact.parent / name)
        refuse(artifact, f"{name} is a link that leads out of the artifact")
        (artifact / name).unlink()
        (artifact.parent / name).rename(artifact / name)
    Engine.open(artifact).close()


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_file_that_no_hash_holds_is_not_used(artifact, name):
    values = read(artifact)
    values["files"].pop(name)
    rewrite(artifact, values)
    refuse(artifact, f"{name} is not listed")


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer.json"])
def test_a_needed_file_that_is_not_listed(artifact, name):
    values = read(artifact)
    values["files"].pop(name)
    rewrite(artifact, values)
    (artifact / name).unlink()
    refuse(artifact, f"{name}")


def test_weights_written_in_place_with_their_time_set_back(artifact, monkeypatch):
    monkeypatch.setattr("inference_pio.artifact.bundle.LARGE_FILE_BYTES", 1 << 20)
    Engine.open(artifact).close()
    path = artifact / "model.onnx.data"
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"\x00\xff\x00\xff")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_ino, path.stat().st_size) == (
        before.st_mtime_ns,
        before.st_ino,
        before.st_size,
    )
    refuse(artifact, r"model\.onnx\.data has changed")


@pytest.mark.parametrize("kept", [0, 1, 4096, 1_000_000])
def test_weights_cut_short_with_hashes_made_right(artifact, kept):
    data = artifact / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:kept])
    rehash(artifact)
    assert "\n" not in refuse(artifact, "ONNX Runtime|has 0 bytes")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("cache", "layers", 4),
        ("cache", "layers", 6),
        ("cache", "layers", 10**9),
        ("cache", "kv_heads", 1),
        ("cache", "kv_heads", 10**9),
        ("cache", "head_dim", 32),
        ("model", "vocab_size", 100),
        ("model", "vocab_size", 10**12),
    ],
)
def test_a_manifest_that_lies_about_its_graph(artifact, section, key, value):
    values = read(artifact)
    values[section][key] = value
    rewrite(artifact, values)
    refuse(artifact, "other inputs or outputs than its manifest implies")


def test_another_artifacts_graph(artifact, tiny_artifact):
    shutil.copy(tiny_artifact("fp32") / "model.onnx", artifact / "model.onnx")
    rehash(artifact)
    refuse(artifact, "ONNX Runtime")


def test_a_context_beyond_the_tables_ends_in_an_error(artifact):
    values = read(artifact)
    values["model"]["context_length"] = 10_000
    rewrite(artifact, values)
    with Engine.open(artifact, EngineConfig(prefix_cache_bytes=0)) as engine:
        with pytest.raises(Exception, match="ONNX Runtime failed at position"):
            engine.generate([5] * 4500, SamplingParams(max_new_tokens=1))
        assert engine.generate([5], SamplingParams(max_new_tokens=1)).token_ids


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": "hot"},
        {"temperature": -1.0},
        {"do_sample": "yes"},
        {"top_k": -5},
        {"top_p": 7},
        {"eos_token_id": "end"},
        {"max_new_tokens": 0},
        {"repetition_penalty": 0},
    ],
    ids=str,
)
def test_generation_defaults_that_make_no_sense(artifact, changes):
    path = artifact / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    rehash(artifact)
    with Engine.open(artifact) as engine, pytest.raises(BadInputError, match=next(iter(changes))):
        engine.generate("import")


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
