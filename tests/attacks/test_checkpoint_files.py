"""Broken and malicious checkpoint files: each is refused with one sentence that names the culprit."""

import json
import os
import sys
from pathlib import Path

import pytest

from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.checkpoint.config import ConfigReader
from inference_pio.errors import BadInputError

sys.path.insert(0, str(Path(__file__).parents[1]))
from crafted import SOUND, A, B, framed, refusal

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    (tmp_path / "model.safetensors").write_bytes(framed(SOUND))
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    (tmp_path / "x.safetensors").write_bytes(framed({"a": A}, bytes(24)))
    (tmp_path / "y.safetensors").write_bytes(framed({"b": {**B, "data_offsets": [0, 8]}}, bytes(8)))
    (tmp_path / INDEX).write_text('{"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}')
    return tmp_path


def test_the_sound_files_open(folder: Path) -> None:
    with Checkpoint.open(folder) as checkpoint:
        assert list(checkpoint.tensors) == ["a", "b"]


def test_the_sound_shards_open(sharded: Path) -> None:
    with Checkpoint.open(sharded) as checkpoint:
        assert list(checkpoint.tensors) == ["a", "b"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "generation_config.json", INDEX])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "dead link", "endless link"])
def test_special_files_are_refused_without_hanging(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "dead link": "nowhere", "endless link": name}[kind])
    assert f"'{name}'" in refusal(lambda: Checkpoint.open(folder))


def test_pickles_are_never_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pytorch_model.bin" in refusal(lambda: Checkpoint.open(folder))


def test_code_files_are_listed_and_never_run(folder: Path) -> None:
    mark = folder / "ran"
    code = f"open({str(mark)!r}, 'w').close()"
    for name in ("modeling_qwen3.py", "configuration_qwen3.py", "__init__.py", "conftest.py"):
        (folder / name).write_text(code)
    (folder / "config.json").write_text('{"auto_map": {"AutoConfig": "configuration_qwen3.Config"}}')
    with Checkpoint.open(folder) as checkpoint:
        assert len(checkpoint.code_files) == 4
        checkpoint.tensor("a")
        checkpoint.file_hashes()
    assert not mark.exists()


@pytest.mark.parametrize(
    "shard",
    [
        *("../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "./x.safetensors", "..", ".", ""),
        *("sub\\x.safetensors", "C:x.safetensors", "x.safetensors/", "x..safetensors", "x.safetensors\0"),
        *("x.bin", "pytorch_model.bin", "x.safetensors\n", "\x1b.safetensors", "config.json", "x.SAFETENSORS"),
        *(None, 1, True, ["x.safetensors"], {"a": 1}),
    ],
)
def test_an_index_cannot_point_outside_the_folder(sharded: Path, shard: object) -> None:
    (sharded.parent / "x.safetensors").write_bytes(framed({"a": A}, bytes(24)))
    (sharded / INDEX).write_text(json.dumps({"weight_map": {"a": shard, "b": "y.safetensors"}}))
    message = refusal(lambda: Checkpoint.open(sharded))
    assert "places tensor 'a' in" in message
    assert "not the plain name" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"[]", "must hold a JSON object"),
        (b"{}", "has no 'weight_map'"),
        (b'{"weight_map": {}}', "has no 'weight_map'"),
        (b'{"weight_map": []}', "has no 'weight_map'"),
        (b'{"weight_map": "x.safetensors"}', "has no 'weight_map'"),
        (b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "'a' stands twice"),
        (b'{"weight_map": {"a": "\xff"}}', "not UTF-8"),
        (b'{"weight_map": ' + b'{"a":' * 100_000, "nested"),
    ],
)
def test_broken_indexes_are_refused(sharded: Path, content: bytes, words: str) -> None:
    (sharded / INDEX).write_bytes(content)
    message = refusal(lambda: Checkpoint.open(sharded))
    assert words in message
    assert INDEX in message


def test_missing_shards_are_named(sharded: Path) -> None:
    (sharded / "y.safetensors").unlink()
    assert "'y.safetensors'" in refusal(lambda: Checkpoint.open(sharded))


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({"a": "x.safetensors", "b": "y.safetensors", "c": "y.safetensors"}, "y.safetensors lacks.*'c'"),
        ({"a": "y.safetensors", "b": "y.safetensors"}, "y.safetensors lacks.*'a'"),
        ({"b": "y.safetensors", "c": "x.safetensors"}, "x.safetensors lacks.*'c'"),
    ],
)
def test_index_and_shards_must_agree(sharded: Path, weight_map: dict[str, str], words: str) -> None:
    (sharded / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BadInputError, match=words):
        Checkpoint.open(sharded)


def test_tensors_that_the_index_does_not_list_are_named(sharded: Path) -> None:
    two = {"a": A, "extra": {**B, "data_offsets": [24, 32]}}
    (sharded / "x.safetensors").write_bytes(framed(two))
    message = refusal(lambda: Checkpoint.open(sharded))
    assert "x.safetensors holds tensors" in message
    assert "'extra'; it places the first in 'no shard'" in message


def test_a_tensor_in_two_shards_is_named(sharded: Path) -> None:
    two = {"b": {**B, "data_offsets": [0, 8]}, "a": {**A, "data_offsets": [8, 32]}}
    (sharded / "y.safetensors").write_bytes(framed(two))
    assert "'a'; it places the first in 'x.safetensors'" in refusal(lambda: Checkpoint.open(sharded))


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"null", "must hold a JSON object"),
        (b"[1]", "must hold a JSON object"),
        (b'"x"', "must hold a JSON object"),
        (b'{"a": 1', "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": Infinity}', "Infinity is not a JSON number"),
        (b'{"a": -1e400}', "too large"),
        (b'{"a": ' + b"7" * 10_000 + b"}", "integer of 10000 digits"),
        (b'{"hidden_size": 1, "hidden_size": 2}', "'hidden_size' stands twice"),
        (b'{"a": "\xc3\x28"}', "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b'{"a": "\\udc00"}', "surrogate"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
        (b'{"a": ' * 100_000, "nested"),
        (b" " * 10_000_001, "at most 10000000"),
    ],
)
def test_broken_configs_are_refused(folder: Path, name: str, content: bytes, words: str) -> None:
    (folder / name).write_bytes(content)
    message = refusal(lambda: Checkpoint.open(folder))
    assert words in message
    assert f"'{name}'" in message


@pytest.mark.parametrize(
    "value", ["0", "-1", "1.0", "1e3", "true", '"16"', "[16]", "{}", "9223372036854775808", "9" * 99]
)
def test_impossible_sizes_are_refused_by_name(folder: Path, value: str) -> None:
    (folder / "config.json").write_text(f'{{"hidden_size": {value}}}')
    with Checkpoint.open(folder) as checkpoint:
        config = ConfigReader(checkpoint.config)
    message = refusal(lambda: config.need_int("hidden_size"))
    assert message.startswith("config.json: hidden_size")


def test_a_quantized_checkpoint_is_refused_by_name(folder: Path) -> None:
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    assert "quantization_config" in refusal(lambda: Checkpoint.open(folder))
