"""Weights that stay in a file: the same answers from less memory, and a derived file that can be lost or spoilt."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from inference_pio.artifact.locking import FolderLock
from inference_pio.errors import BadInputError, ResourceLimitError
from inference_pio.runtime import Engine, EngineConfig, SamplingParams
from inference_pio.runtime.mapped import available, choice, prepack, store
from inference_pio.runtime.mapped.onnx_file import OnnxFile
from inference_pio.runtime.mapped.wire import bytes_field, fields, varint_field

GREEDY = SamplingParams(max_new_tokens=12, temperature=0.0, ignore_eos=True)
IDS = [5, 17, 300, 42, 7, 9]


def config(folder: Path, **more: object) -> EngineConfig:
    return EngineConfig(threads=1, prefix_cache_bytes=0, cache_dir=folder / "cache", **more)  # type: ignore[arg-type]


def answer(artifact: Path, chosen: EngineConfig) -> tuple[np.ndarray, list[int]]:
    with Engine.open(artifact, chosen) as engine:
        return engine.logits(IDS), list(engine.generate(IDS, GREEDY).token_ids)  # type: ignore[union-attr]


def forms(folder: Path) -> list[Path]:
    return sorted(path.parent for path in (folder / "cache" / "mapped").glob("*/complete.json"))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4", "w8a8"])
def test_mapped_weights_give_the_same_bits(tiny_artifact: Callable[[str], Path], tmp_path, precision):
    artifact = tiny_artifact(precision)
    logits, tokens = answer(artifact, config(tmp_path, map_weights="off"))
    assert not forms(tmp_path)
    for _ in range(2):  # once made, once found
        mapped, same = answer(artifact, config(tmp_path, map_weights="on"))
        np.testing.assert_array_equal(mapped, logits)
        assert same == tokens
    assert len(forms(tmp_path)) == 1


def test_every_blockwise_and_integer_weight_is_packed(tiny_artifact: Callable[[str], Path], tmp_path):
    answer(tiny_artifact("w8a8"), config(tmp_path, map_weights="on"))
    (form,) = forms(tmp_path)
    model = onnx.load(form / "model.onnx", load_external_data=False)
    packed = {
        tensor.name for tensor in model.graph.initializer if any(e.key == "prepacked_0" for e in tensor.external_data)
    }
    wanted = {n.input[1] for n in model.graph.node if n.op_type in ("MatMulNBits", "MatMulIntegerToFloat")}
    assert wanted and packed == wanted
    assert form.parent.stat().st_mode & 0o077 == 0


def test_packed_forms_are_really_used(tiny_artifact: Callable[[str], Path], tmp_path):
    """With the packed bytes spoilt the answer changes: they are what is multiplied with."""
    artifact, chosen = tiny_artifact("int8"), config(tmp_path, map_weights="on")
    logits, _ = answer(artifact, chosen)
    (form,) = forms(tmp_path)
    plain = (artifact / "model.onnx.data").stat().st_size
    with (form / "model.onnx.data").open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(plain)
        file.write(bytes(size - plain))
    spoilt, _ = answer(artifact, chosen)
    assert np.abs(spoilt - logits).max() > 1e-3


def test_layouts_of_another_machine_are_packed_anew(tiny_artifact: Callable[[str], Path], tmp_path):
    """A key that does not fit what the kernel packs: it keeps its own, whatever stands in the file."""
    artifact, chosen = tiny_artifact("int8"), config(tmp_path, map_weights="on")
    logits, _ = answer(artifact, chosen)
    (form,) = forms(tmp_path)
    graph = form / "model.onnx"
    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "prepacked_0":
                name, _, rest = entry.value.partition("|")
                entry.value = f"{name[:-3]}999|{rest}"
    graph.write_bytes(model.SerializeToString())
    np.testing.assert_array_equal(answer(artifact, chosen)[0], logits)


def test_another_cpu_or_version_has_a_form_of_its_own(tiny_artifact: Callable[[str], Path], tmp_path, monkeypatch):
    artifact, chosen = tiny_artifact("int8"), config(tmp_path, map_weights="on")
    answer(artifact, chosen)
    monkeypatch.setattr(store, "cpu_flags", lambda: frozenset({"avx2"}))
    answer(artifact, chosen)
    assert len(forms(tmp_path)) == 2


def test_old_forms_are_dropped(tiny_artifact: Callable[[str], Path], tmp_path, monkeypatch):
    for number in range(store.KEPT + 2):
        monkeypatch.setattr(store, "cpu_flags", lambda number=number: frozenset({f"flag{number}"}))
        answer(tiny_artifact("int8"), config(tmp_path, map_weights="on"))
    assert len(forms(tmp_path)) == store.KEPT


@pytest.mark.parametrize(
    ("asked", "weights", "available", "max_memory", "mapped"),
    [
        ("on", 1, 100, None, True),
        ("off", 1000, 100, None, False),
        ("auto", 70, 100, None, False),
        ("auto", 80, 100, None, True),
        ("auto", 70, 100, 80, True),
        ("auto", 50, 100, 80, False),
    ],
)
def test_when_weights_are_mapped(monkeypatch, asked, weights, available, max_memory, mapped):
    monkeypatch.setattr(choice, "available_memory", lambda: available)
    chosen = EngineConfig(map_weights=asked, max_memory=max_memory)
    assert choice.wants_mapping(chosen, weights) == mapped


@pytest.mark.parametrize(
    ("membership", "files", "left"),
    [
        (
            "0::/a/b\n",
            {"a/memory.max": "1000", "a/memory.current": "700", "a/memory.stat": "anon 600\nfile 100\n"},
            400,
        ),
        ("0::/a\n", {"a/memory.max": "max", "memory.max": "50", "memory.current": "60", "memory.stat": "file 5"}, 0),
        (
            "4:memory:/a\n0::/\n",
            {
                "memory/a/memory.limit_in_bytes": "900",
                "memory/a/memory.usage_in_bytes": "800",
                "memory/a/memory.stat": "total_cache 300",
            },
            400,
        ),
        ("0::/gone\n", {}, None),
        ("nonsense", {}, None),
    ],
)
def test_limits_of_control_groups(tmp_path, monkeypatch, membership, files, left):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "membership").write_text(membership)
    monkeypatch.setattr(available, "MOUNT", tmp_path)
    monkeypatch.setattr(available, "MEMBERSHIP", tmp_path / "membership")
    found = available.available_memory()
    assert found == left if left is not None else found > 1 << 20


def test_a_budget_that_loaded_weights_break_holds_for_mapped_ones(tiny_artifact: Callable[[str], Path], tmp_path):
    artifact = tiny_artifact("int8")
    size = json.loads((artifact / "manifest.json").read_text())["memory"]["weight_bytes"]
    tight = size // 2 + (151 << 20)
    with pytest.raises(ResourceLimitError):
        answer(artifact, config(tmp_path, map_weights="off", max_memory=tight))
    answer(artifact, config(tmp_path, map_weights="on", max_memory=tight))


def test_a_graph_that_cannot_be_prepacked_is_loaded(tiny_artifact, tmp_path, monkeypatch, caplog):
    def refuse(*arguments: object) -> None:
        raise RuntimeError("no such luck")

    artifact = tiny_artifact("int8")
    logits, _ = answer(artifact, config(tmp_path, map_weights="off"))
    monkeypatch.setattr(store, "prepack", refuse)
    monkeypatch.setattr(choice, "available_memory", lambda: 1)
    with caplog.at_level(logging.WARNING, "inference_pio"):
        np.testing.assert_array_equal(answer(artifact, config(tmp_path))[0], logits)
    assert "no such luck" in caplog.text
    with pytest.raises(BadInputError, match="cannot be prepacked here: no such luck"):
        answer(artifact, config(tmp_path, map_weights="on"))
    assert not list((tmp_path / "cache" / "mapped").iterdir())


def test_an_interrupted_or_failed_prepacking_leaves_nothing(tiny_artifact, tmp_path, monkeypatch):
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepack, "_pack", interrupt)
    with pytest.raises(KeyboardInterrupt):
        answer(tiny_artifact("int8"), config(tmp_path, map_weights="on"))
    assert not list((tmp_path / "cache" / "mapped").iterdir())


def test_no_space(tiny_artifact, tmp_path, monkeypatch):
    usage = store.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ResourceLimitError, match="need up to"):
        answer(tiny_artifact("int8"), config(tmp_path, map_weights="on"))


def test_two_at_once(tiny_artifact, tmp_path):
    artifact, chosen = tiny_artifact("int8"), config(tmp_path, map_weights="on")
    answer(artifact, chosen)
    (form,) = forms(tmp_path)
    (form / "complete.json").unlink()
    lock = FolderLock(form.with_name(f".{form.name}.partial"))
    with pytest.raises(BadInputError, match="another process is prepacking"):
        answer(artifact, chosen)
    lock.release()
    answer(artifact, chosen)


def test_a_changed_artifact_is_not_prepacked(tiny_artifact, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_artifact("int8"), copy)
    with (copy / "model.onnx.data").open("r+b") as file:
        file.seek(4096)
        file.write(b"changed")
    with pytest.raises(BadInputError):
        answer(copy, config(tmp_path, map_weights="on"))
    assert not forms(tmp_path)


def test_unknown_choice():
    with pytest.raises(BadInputError, match="map_weights 'yes' is not known: use auto or on or off"):
        replace(EngineConfig(), map_weights="yes")


def test_wire_round_trip():
    message = varint_field(1, 300) + bytes_field(2, "text") + bytes_field(3, varint_field(1, 1 << 40))
    found = list(fields(message))
    assert [(f.number, f.value) for f in found] == [(1, 300), (2, b"text"), (3, varint_field(1, 1 << 40))]
    assert b"".join(f.raw for f in found) == message


@pytest.mark.parametrize("data", [b"\x08", b"\x12\x05abc", b"\x0b", b"\x08" + b"\xff" * 11])
def test_damaged_messages(data):
    with pytest.raises(ValueError):
        list(fields(data))


def test_an_edited_model_is_the_same_but_for_the_entries(tiny_artifact):
    data = (tiny_artifact("int8") / "model.onnx").read_bytes()
    before = onnx.load_from_string(data)
    name = next(t.name for t in before.graph.initializer if t.external_data)
    after = onnx.load_from_string(OnnxFile.parse(data).with_external({name: [("prepacked_0", "x|1;2;0")]}))
    (changed,) = [t for t in after.graph.initializer if t.name == name]
    assert changed.external_data.pop().value == "x|1;2;0"
    assert after == before


def test_the_runtime_still_needs_no_onnx():
    code = "import sys, inference_pio.runtime.mapped.choice; assert 'onnx' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
