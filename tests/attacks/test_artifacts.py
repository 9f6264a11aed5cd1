"""Artifacts whose files or manifest were changed: refused with one sentence, nothing outside is touched."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.hashing import StampCache
from inference_pio.cli import main
from inference_pio.errors import BadInputError
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.runtime import Engine, EngineConfig, SamplingParams

sys.path.insert(0, str(Path(__file__).parents[1]))
from artifact_cases import read, rehash, rewrite


def change(folder: Path, edit: Callable[[dict], None]) -> None:
    values = read(folder)
    edit(values)
    rewrite(folder, values)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "config.json", "generation_config.json"])
def test_changed_byte(artifact, name, refuse):
    path = artifact / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refuse(artifact, f"{name} has changed")


def test_changed_weight(artifact, monkeypatch, refuse):
    monkeypatch.setattr("inference_pio.artifact.bundle.LARGE_FILE_BYTES", 1 << 20)
    path = artifact / "model.onnx.data"
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    refuse(artifact, "model.onnx.data has changed")
    refuse(artifact, "model.onnx.data has changed", verify_hashes="always")


def test_weights_replaced_after_the_first_open(artifact, monkeypatch, refuse):
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


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../x", "C:\\x", "..", "", ".hidden"])
def test_path_in_the_manifest_that_leaves(artifact, name, refuse):
    entry = {"sha256": "0" * 64, "size": 1}
    change(artifact, lambda manifest: manifest["files"].update({name: entry}))
    refuse(artifact, "manifest")


def test_graph_that_is_not_listed(artifact, refuse):
    change(artifact, lambda manifest: manifest["graphs"][0].update(file="../other/model.onnx"))
    refuse(artifact, "no such file")


def test_newer_schema(artifact, refuse):
    change(artifact, lambda manifest: manifest.update(schema_version=2))
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
def test_manifest_that_breaks_the_schema(artifact, edit, refuse):
    change(artifact, edit)
    refuse(artifact, "manifest")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"a": NaN}', b'{"a":1,"a":2}'])
def test_manifest_that_is_not_json(artifact, content, refuse):
    (artifact / "manifest.json").write_bytes(content)
    refuse(artifact, "manifest.json")


def test_huge_manifest_is_not_read(artifact, refuse):
    with open(artifact / "manifest.json", "r+b") as file:
        file.truncate(1 << 33)
    refuse(artifact, "bytes")


@pytest.mark.parametrize("location", ["../outside.data", "/etc/hostname"])
def test_graph_whose_weights_lie_outside(artifact, location, refuse):
    (artifact.parent / "outside.data").write_bytes((artifact / "model.onnx.data").read_bytes())
    model = onnx.load(artifact / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (artifact / "model.onnx").write_bytes(model.SerializeToString())
    rehash(artifact)
    refuse(artifact, "ONNX Runtime")


@pytest.mark.parametrize("content", [b"\x00" * 64, b"garbage", b"\x08\x0c"])
def test_graph_that_is_no_model(artifact, content, refuse):
    (artifact / "model.onnx").write_bytes(content)
    rehash(artifact)
    refuse(artifact, "ONNX Runtime")


def test_tokenizer_that_is_none(artifact, refuse):
    (artifact / "tokenizer.json").write_text("{}")
    rehash(artifact)
    refuse(artifact, "tokenizer.json")


def test_failed_artifact_asks_for_consent(artifact, refuse):
    accuracy = {"gate": "int8", "passed": False, "metrics": {"kl_mean": 1.0}, "failures": ["kl_mean"]}
    change(artifact, lambda manifest: manifest.update(accuracy=accuracy))
    refuse(artifact, "allow_failed")
    Engine.open(artifact, EngineConfig(allow_failed=True)).close()


def test_needs_newer_runtime_or_other_cpu(artifact, refuse):
    requires = read(artifact)["requires"]
    requires["packages"]["onnxruntime"] = "99.0"
    change(artifact, lambda manifest: manifest.update(requires=requires))
    refuse(artifact, "onnxruntime 99.0")
    requires["packages"]["onnxruntime"], requires["cpu_classes"] = "1.31", ["abacus"]
    change(artifact, lambda manifest: manifest.update(requires=requires))
    refuse(artifact, "abacus")


def test_check_finds_what_a_stamp_hides(artifact, capsys):
    assert main.run(["inspect", "--check", str(artifact)]) == 0
    (artifact / "note.txt").write_text("not listed")
    assert main.run(["inspect", str(artifact)]) == 0
    assert "note.txt" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_file_that_no_hash_holds_is_not_used(artifact, name, refuse):
    values = read(artifact)
    values["files"].pop(name)
    rewrite(artifact, values)
    refuse(artifact, f"{name} is not listed")


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer.json"])
def test_a_needed_file_that_is_not_listed(artifact, name, refuse):
    values = read(artifact)
    values["files"].pop(name)
    rewrite(artifact, values)
    (artifact / name).unlink()
    refuse(artifact, f"{name}")


def test_weights_written_in_place_with_their_time_set_back(artifact, monkeypatch, refuse):
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
def test_weights_cut_short_with_hashes_made_right(artifact, kept, refuse):
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
def test_a_manifest_that_lies_about_its_graph(artifact, section, key, value, refuse):
    values = read(artifact)
    values[section][key] = value
    rewrite(artifact, values)
    refuse(artifact, "other inputs or outputs than its manifest implies")


def test_another_artifacts_graph(artifact, tiny_artifact, refuse):
    shutil.copy(tiny_artifact("fp32") / "model.onnx", artifact / "model.onnx")
    rehash(artifact)
    refuse(artifact, "ONNX Runtime")


def test_a_context_beyond_the_tables_ends_in_an_error(tiny, tmp_path):
    artifact = export(tiny, tmp_path / "short", ExportOptions(context_length=256)).path
    change(artifact, lambda manifest: manifest["model"].update(context_length=10_000))
    with Engine.open(artifact, EngineConfig(prefix_cache_bytes=0)) as engine:
        with pytest.raises(Exception, match="ONNX Runtime failed at position"):
            engine.generate([5] * 300, SamplingParams(max_new_tokens=1))
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
