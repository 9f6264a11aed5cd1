"""Artifacts that were damaged or made to harm: refused with one sentence, nothing outside is touched."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.hashing import StampCache, hash_file
from inference_pio.cli import main
from inference_pio.errors import BadInputError
from inference_pio.runtime import Engine, EngineConfig


@pytest.fixture
def artifact(tiny_artifact: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_artifact("int8"), tmp_path / "artifact"))


def change(path: Path, edit: Callable[[dict], None]) -> None:
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def rehash(folder: Path, name: str) -> None:
    """Let the manifest accept a changed file, so that only the other defences stand in the way."""
    entry = hash_file(folder / name)
    change(folder / "manifest.json", lambda m: m["files"].update({name: {"sha256": entry.sha256, "size": entry.size}}))


def refuse(folder: Path, word: str, **options: object) -> None:
    with pytest.raises(BadInputError, match=word):
        Engine.open(folder, EngineConfig(**options)).close()


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "config.json", "generation_config.json"])
def test_changed_byte(artifact, name):
    path = artifact / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refuse(artifact, f"{name} has changed")


def test_changed_weight(artifact, monkeypatch):
    monkeypatch.setattr("inference_pio.artifact.bundle.LARGE_FILE_BYTES", 1 << 20)
    path = artifact / "model.onnx.data"
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    refuse(artifact, "model.onnx.data has changed")
    refuse(artifact, "model.onnx.data has changed", verify_hashes="always")


def test_weights_replaced_after_the_first_open(artifact, monkeypatch):
    monkeypatch.setattr("inference_pio.artifact.bundle.LARGE_FILE_BYTES", 1 << 20)
    Engine.open(artifact).close()
    path = artifact / "model.onnx.data"
    status, data = path.stat(), bytearray(path.read_bytes())
    data[12345] ^= 1
    path.unlink()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    refuse(artifact, "model.onnx.data has changed")


def test_a_stamp_saves_the_second_hash_but_not_an_asked_one(artifact, monkeypatch, tmp_path):
    monkeypatch.setattr("inference_pio.artifact.bundle.LARGE_FILE_BYTES", 1 << 20)
    opened, stamps = Artifact.open(artifact), StampCache(tmp_path / "stamps")
    opened.check_large_files(stamps)
    monkeypatch.setattr("inference_pio.artifact.bundle.hash_file", lambda path: pytest.fail("hashed again"))
    opened.check_large_files(stamps)
    with pytest.raises(pytest.fail.Exception):
        opened.check_large_files(None)


@pytest.mark.parametrize("name", ["model.onnx.data", "tokenizer.json", "manifest.json"])
def test_missing_file(artifact, name):
    (artifact / name).unlink()
    refuse(artifact, name)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_folder_or_empty_file_instead(artifact, name):
    (artifact / name).write_bytes(b"")
    refuse(artifact, name)
    (artifact / name).unlink()
    (artifact / name).mkdir()
    refuse(artifact, name)


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "missing"])
def test_link_out_of_the_folder(artifact, target):
    (artifact.parent / "secret").write_text("secret")
    (artifact / "tokenizer.json").unlink()
    (artifact / "tokenizer.json").symlink_to(target)
    refuse(artifact, "tokenizer.json")


def test_link_that_stays_inside(artifact):
    (artifact / "tokenizer.json").rename(artifact / "real.json")
    (artifact / "tokenizer.json").symlink_to("real.json")
    Engine.open(artifact).close()


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../x", "C:\\x", "..", "", ".hidden"])
def test_path_in_the_manifest_that_leaves(artifact, name):
    entry = {"sha256": "0" * 64, "size": 1}
    change(artifact / "manifest.json", lambda manifest: manifest["files"].update({name: entry}))
    refuse(artifact, "manifest")


def test_graph_that_is_not_listed(artifact):
    change(artifact / "manifest.json", lambda manifest: manifest["graphs"][0].update(file="../other/model.onnx"))
    refuse(artifact, "no such file")


def test_newer_schema(artifact):
    change(artifact / "manifest.json", lambda manifest: manifest.update(schema_version=2))
    refuse(artifact, "upgrade")


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.update(extra=1),
        lambda m: m.pop("cache"),
        lambda m: m.update(schema_version="1"),
        lambda m: m.update(schema_version=True),
        lambda m: m["cache"].update(layers=0),
        lambda m: m["cache"].update(dtype="float64"),
        lambda m: m["files"]["model.onnx"].update(sha256="zz"),
        lambda m: m.update(graphs=[]),
        lambda m: m["model"].update(context_length=1.5),
    ],
)
def test_manifest_that_breaks_the_schema(artifact, edit):
    change(artifact / "manifest.json", edit)
    refuse(artifact, "manifest")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"a": NaN}', b'{"a":1,"a":2}'])
def test_manifest_that_is_not_json(artifact, content):
    (artifact / "manifest.json").write_bytes(content)
    refuse(artifact, "manifest.json")


def test_huge_manifest_is_not_read(artifact):
    with open(artifact / "manifest.json", "r+b") as file:
        file.truncate(1 << 33)
    refuse(artifact, "bytes")


@pytest.mark.parametrize("location", ["../outside.data", "/etc/hostname"])
def test_graph_whose_weights_lie_outside(artifact, location):
    (artifact.parent / "outside.data").write_bytes((artifact / "model.onnx.data").read_bytes())
    model = onnx.load(artifact / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (artifact / "model.onnx").write_bytes(model.SerializeToString())
    rehash(artifact, "model.onnx")
    refuse(artifact, "ONNX Runtime")


@pytest.mark.parametrize("content", [b"\x00" * 64, b"garbage", b"\x08\x0c"])
def test_graph_that_is_no_model(artifact, content):
    (artifact / "model.onnx").write_bytes(content)
    rehash(artifact, "model.onnx")
    refuse(artifact, "ONNX Runtime")


def test_tokenizer_that_is_none(artifact):
    (artifact / "tokenizer.json").write_text("{}")
    rehash(artifact, "tokenizer.json")
    refuse(artifact, "tokenizer.json")


def test_failed_artifact_asks_for_consent(artifact):
    accuracy = {"gate": "int8", "passed": False, "metrics": {"kl_mean": 1.0}, "failures": ["kl_mean"]}
    change(artifact / "manifest.json", lambda manifest: manifest.update(accuracy=accuracy))
    refuse(artifact, "allow_failed")
    Engine.open(artifact, EngineConfig(allow_failed=True)).close()


def test_needs_newer_runtime_or_other_cpu(artifact):
    requires = json.loads((artifact / "manifest.json").read_text())["requires"]
    requires["packages"]["onnxruntime"] = "99.0"
    change(artifact / "manifest.json", lambda manifest: manifest.update(requires=requires))
    refuse(artifact, "onnxruntime 99.0")
    requires["packages"]["onnxruntime"], requires["cpu_classes"] = "1.31", ["abacus"]
    change(artifact / "manifest.json", lambda manifest: manifest.update(requires=requires))
    refuse(artifact, "abacus")


def test_check_finds_what_a_stamp_hides(artifact, capsys):
    assert main.run(["inspect", "--check", str(artifact)]) == 0
    (artifact / "note.txt").write_text("not listed")
    assert main.run(["inspect", str(artifact)]) == 0
    assert "note.txt" in capsys.readouterr().out
