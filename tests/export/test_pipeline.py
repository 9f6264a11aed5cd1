"""The export as a whole: what it writes, that it writes it twice the same, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from inference_pio.errors import BadInputError, ResourceLimitError
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.graphs import weights

sys.path.insert(0, str(Path(__file__).parents[1]))
from artifact_cases import snapshot

PRECISIONS = ["fp32", "fp16", "int8", "int4"]


def external(out: Path) -> dict[str, tuple[int, int]]:
    """Offset and length in the data file of every initializer that lies there."""
    model = onnx.load(out / "model.onnx", load_external_data=False)
    found = {}
    for tensor in model.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            assert entries["location"] == "model.onnx.data"
            found[tensor.name] = (int(entries["offset"]), int(entries["length"]))
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_exports_are_the_same_bytes(small, tmp_path, precision, monkeypatch):
    for name, threads, chunk in (("a", 1, 1 << 21), ("b", 2, 1 << 21), ("c", 3, 1000)):
        monkeypatch.setattr(weights, "CHUNK_ELEMENTS", chunk)
        export(small, tmp_path / name, ExportOptions(precision=precision, threads=threads))
    first, *others = (snapshot(tmp_path / name) for name in "abc")
    assert "build-report.json" in first
    for other in others:
        assert {n: h for n, h in other.items() if n != "build-report.json"} == {
            n: h for n, h in first.items() if n != "build-report.json"
        }


def test_a_copy_of_the_checkpoint_gives_the_same_fingerprint(small, changed, tmp_path):
    one = export(small, tmp_path / "one").manifest
    other = export(changed(), tmp_path / "other").manifest
    assert one.fingerprint == other.fingerprint
    assert one.source.name != other.source.name


def test_what_stands_in_an_artifact(small, tmp_path):
    artifact = export(small, tmp_path / "out", ExportOptions(precision="int4", context_length=100))
    manifest, files = artifact.manifest, snapshot(tmp_path / "out")
    wanted = {"model.onnx", "model.onnx.data", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert wanted | {"config.json", "generation_config.json", "genai_config.json"} <= set(manifest.files)
    assert set(files) == set(manifest.files) | {"manifest.json", "build-report.json"}
    assert {name: entry.sha256 for name, entry in manifest.files.items()} == {
        name: files[name] for name in manifest.files
    }
    assert (manifest.model.layers, manifest.model.context_length, manifest.model.vocab_size) == (2, 100, 2048)
    assert manifest.memory.weight_bytes == (tmp_path / "out" / "model.onnx.data").stat().st_size
    assert manifest.memory.cache_bytes_per_token == 2 * 2 * 2 * 16 * 4
    assert manifest.contract.rounds_activations
    assert manifest.requires.operators["com.microsoft::GroupQueryAttention"] == 2
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (small / "tokenizer.json").read_bytes()


def test_hashes_of_the_source_are_those_of_its_files(tiny, tmp_path):
    manifest = export(tiny, tmp_path / "out").manifest
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(manifest.source.files)
    for name, entry in manifest.source.files.items():
        data = (tiny / name).read_bytes()
        assert (entry.sha256, entry.size) == (hashlib.sha256(data).hexdigest(), len(data))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_tied_table_is_stored_once(small, tmp_path, precision):
    export(small, tmp_path / "out", ExportOptions(precision=precision))
    places = external(tmp_path / "out")
    table = {name: place for name, place in places.items() if "embed_tokens" in name}
    if precision in ("int8", "int4"):
        assert table["model.embed_tokens.weight.blocks"] == table["model.embed_tokens.weight.rows"]
        assert table["model.embed_tokens.weight.blocks"][1] == 2048 * 64
        assert len(table) == 3  # and one set of scales
    else:
        assert len(table) == 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_data_file_holds_every_range_once_and_little_else(small, tmp_path, precision):
    export(small, tmp_path / "out", ExportOptions(precision=precision))
    ranges = sorted(set(external(tmp_path / "out").values()))
    end = 0
    for offset, length in ranges:
        assert 0 <= offset - end < 4096, "ranges overlap, or lie far apart"
        assert offset % 64 == 0
        end = offset + length
    assert end == (tmp_path / "out" / "model.onnx.data").stat().st_size


def test_an_untied_head_is_stored_by_itself(changed, tmp_path, small):
    path = changed(tie_word_embeddings=False)
    with pytest.raises(BadInputError, match=r"lacks 'lm_head\.weight'"):
        export(path, tmp_path / "out")


@pytest.mark.parametrize("layers", [1, 2])
def test_fewer_layers(small, tmp_path, layers):
    manifest = export(small, tmp_path / "out", ExportOptions(layers=layers)).manifest
    assert manifest.model.layers == manifest.cache.layers == layers
    assert manifest.graphs[0].layers == list(range(layers))
    assert manifest.source.layers_kept == (1 if layers == 1 else None)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == layers
    full = export(small, tmp_path / "full").manifest
    assert (manifest.parameters < full.parameters) == (layers == 1)
    assert sum(name.startswith("past_key_values") for name in input_names(manifest)) == 2 * layers


def input_names(manifest) -> list[str]:
    return [tensor.name for tensor in manifest.graphs[0].inputs]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": 0}, "--layers 0 is outside 1 to 2"),
        ({"layers": 3}, "--layers 3 is outside 1 to 2"),
        ({"layers": -1}, "--layers -1"),
        ({"context_length": 0}, "--context-length 0 is outside 1 to 256"),
        ({"context_length": 257}, "--context-length 257 is outside 1 to 256"),
        ({"block_size": 48}, "block size 48"),
        ({"precision": "fp32", "block_size": 32}, "no meaning"),
        ({"precision": "int2"}, "precision 'int2'"),
        ({"target": "onnx"}, "target 'onnx'"),
        ({"hardware": "sm61"}, "target ort-cpu does not run on sm61"),
        ({"hardware": "gpu"}, "hardware 'gpu'"),
        ({"kv_cache": "int8"}, "an int8 cache needs text: add --calibration"),
        ({"kv_cache": "int2"}, "--kv-cache int2"),
        ({"precision": "w8a8"}, "recipe w8a8 needs text: add --calibration"),
        ({"precision": "int8", "calibration": "default"}, "leave --calibration out"),
        ({"threads": 0}, "--threads must be at least 1"),
        ({"threads": -2}, "--threads must be at least 1"),
    ],
    ids=str,
)
def test_options_that_cannot_be(small, tmp_path, options, words):
    with pytest.raises(BadInputError, match=words):
        export(small, tmp_path / "out", ExportOptions(**options))
    assert list(tmp_path.iterdir()) == []


def test_the_context_sizes_the_rotary_tables(small, tmp_path):
    for context in (1, 256):
        out = tmp_path / str(context)
        export(small, out, ExportOptions(context_length=context))
        assert external(out)["cos_cache"][1] == context * 8 * 4


@pytest.mark.parametrize("size", [16, 32, 64])
def test_block_sizes(small, tmp_path, size):
    artifact = export(small, tmp_path / "out", ExportOptions(precision="int8", block_size=size))
    blocks = {
        attribute.i
        for node in onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph.node
        for attribute in node.attribute
        if attribute.name == "block_size"
    }
    assert blocks == {size}
    assert artifact.manifest.recipe.weights == {"layers": f"int8-block{size}", "edges": f"int8-block{size}"}


def test_a_recipe_file_with_exceptions(small, tmp_path):
    recipe = tmp_path / "careful.json"
    recipe.write_text('{"base": "int4", "overrides": {"*.0.mlp.down_proj.weight": "int8-block32", "*embed*": "fp16"}}')
    artifact = export(small, tmp_path / "out", ExportOptions(precision=str(recipe)))
    facts = artifact.manifest.recipe
    assert (facts.name, facts.weights) == ("careful", {"layers": "int4", "edges": "int8"})
    assert facts.overrides == {"*.0.mlp.down_proj.weight": "int8-block32", "*embed*": "fp16"}
    lengths = {name: length for name, (_, length) in external(tmp_path / "out").items()}
    assert lengths["model.layers.0.mlp.down_proj.weight.blocks"] == 64 * 96
    assert lengths["model.layers.1.mlp.down_proj.weight.blocks"] == 64 * 96 // 2
    assert lengths["model.embed_tokens.weight.float16"] == 2048 * 64 * 2


def test_a_pattern_that_fits_nothing_is_refused(small, tmp_path):
    recipe = tmp_path / "typo.json"
    recipe.write_text('{"base": "int4", "overrides": {"*.mpl.*": "int8"}}')
    with pytest.raises(BadInputError, match=r"\*\.mpl\.\*"):
        export(small, tmp_path / "out", ExportOptions(precision=str(recipe)))


def test_the_source_of_a_hub_snapshot_is_its_id(small, tmp_path):
    snapshot = tmp_path / "models--Qwen--Qwen3-4B" / "snapshots" / "abc123"
    shutil.copytree(small, snapshot)
    assert export(snapshot, tmp_path / "out").manifest.source.name == "Qwen/Qwen3-4B"
    assert export(small, tmp_path / "other").manifest.source.name == small.name


def test_memory_is_honoured_or_refused_with_the_need(small, tmp_path):
    with pytest.raises(ResourceLimitError, match=r"needs (\d+)MB of memory and --max-memory allows 100MB") as caught:
        export(small, tmp_path / "out", ExportOptions(max_memory=100_000_000, threads=4))
    assert list(tmp_path.iterdir()) == []
    need = int(str(caught.value).split("at least ")[1].split("MB")[0]) * 1_000_000
    export(small, tmp_path / "out", ExportOptions(max_memory=need, threads=4))
    report = json.loads((tmp_path / "out" / "build-report.json").read_text())
    assert report["threads"] == 1
    assert report["expected_peak_bytes"] <= need


def test_a_disk_that_is_too_small_is_refused_before_any_work(small, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(ResourceLimitError, match=r"needs \d+MB of disk and .* has 1MB"):
        export(small, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_half_precision_that_overflows_is_refused_by_name(tmp_path, small, changed):
    path = changed()
    damage(path, "model.layers.1.mlp.up_proj.weight", b"\x00\x48")  # bfloat16 131072
    with pytest.raises(BadInputError, match=r"mlp\.up_proj\.weight.* beyond the range of float16"):
        export(path, tmp_path / "out", ExportOptions(precision="fp16"))
    assert not (tmp_path / "out").exists()
    export(path, tmp_path / "out", ExportOptions(precision="fp32"))


def damage(path: Path, tensor: str, value: bytes) -> None:
    """Overwrite the second number of a bfloat16 tensor."""
    file = path / "model.safetensors"
    data = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    begin = json.loads(data[8:start])[tensor]["data_offsets"][0]
    data[start + begin + 2 : start + begin + 4] = value
    file.write_bytes(data)


def test_progress_tells_the_need_then_every_byte(small, tmp_path):
    events: list[object] = []

    class Watch:
        def calibration(self, phase, done, total):
            raise AssertionError("nothing is calibrated")

        def start(self, needed):
            events.append(needed)

        def advance(self, written):
            events.append(written)

        def finish(self):
            events.append("end")

    export(small, tmp_path / "out", progress=Watch())
    needed, *written, end = events
    assert end == "end"
    assert sum(written) == needed.weights
    assert 0 <= (tmp_path / "out" / "model.onnx.data").stat().st_size - needed.weights < 4096 * len(written)
    assert needed.disk > needed.weights
    assert needed.peak_memory > 0


def test_licences_of_any_name_come_along_and_stay_out_of_the_fingerprint(small, changed, tmp_path):
    path = changed()
    for name in ("LICENSE", "license (copy).txt", "NOTICE é.md"):
        (path / name).write_text("words")
    manifest = export(path, tmp_path / "out").manifest
    assert {"LICENSE", "license__copy_.txt", "NOTICE__.md"} <= set(manifest.files)
    assert manifest.fingerprint == export(small, tmp_path / "plain").manifest.fingerprint


def test_a_folder_whose_name_is_no_text(changed, tmp_path):
    path = changed().rename(tmp_path / os.fsdecode(b"caf\xe9"))
    assert export(path, tmp_path / "out").manifest.source.name == "caf�"


def test_a_checkpoint_without_generation_config_keeps_its_special_ids(changed, tmp_path):
    path = changed()
    (path / "generation_config.json").unlink()
    export(path, tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert saved == {"bos_token_id": 1, "eos_token_id": 2}


def test_the_model_passes_the_checker(small, tmp_path):
    for precision in PRECISIONS:
        export(small, tmp_path / precision, ExportOptions(precision=precision))
        onnx.checker.check_model(str(tmp_path / precision / "model.onnx"))


def test_every_initializer_says_what_it_was_made_of(small, tmp_path):
    export(small, tmp_path / "out", ExportOptions(precision="int8"))
    model = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)
    named: list[str] = []
    for tensor in model.graph.initializer:
        for entry in tensor.metadata_props:
            if entry.key == "inference_pio.sources":
                named += [name for name, _ in json.loads(entry.value)]
    assert named.count("model.embed_tokens.weight") == 2
    tensors = json.loads((small / "model.safetensors").read_bytes()[8:].split(b"}}")[0] + b"}}")
    assert set(named) == {name for name in tensors if name != "__metadata__"}
