"""Tiny checkpoints, written by hand so that a test can get every byte of them wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

WriteFile = Callable[[Path, dict[str, list[int]]], None]


def _write_weights(path: Path, shapes: dict[str, list[int]]) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        elements = 1
        for size in shape:
            elements *= size
        begin, end = end, end + 4 * elements
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    data = b"".join(index.to_bytes(4, "little") for index in range(end // 4))
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)


@pytest.fixture
def write_weights() -> WriteFile:
    """Writes a safetensors file of F32 tensors with these shapes."""
    return _write_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint folder with two tensors in one file."""
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "qwen3", "hidden_size": 3}')
    _write_weights(path / "model.safetensors", {"b": [2, 3], "a": [4]})
    return path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """The same tensors in two shards with an index."""
    path = tmp_path / "sharded"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "qwen3", "hidden_size": 3}')
    shards = {"b": "model-00001-of-00002.safetensors", "a": "model-00002-of-00002.safetensors"}
    _write_weights(path / shards["b"], {"b": [2, 3]})
    _write_weights(path / shards["a"], {"a": [4]})
    index = {"metadata": {"total_size": 40}, "weight_map": shards}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path
