"""A random checkpoint of two small layers, and a way to damage copies of it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from random_checkpoint import published_config, write_random_checkpoint

SMALL = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random checkpoint; tests must not change it."""
    path = tmp_path_factory.mktemp("checkpoints") / "small"
    write_random_checkpoint(path, {**published_config("qwen3-0.6b"), **SMALL})
    return path


@pytest.fixture
def changed(small: Path, tmp_path: Path) -> Callable[..., Path]:
    """`changed("config.json", vocab_size=3)`: a copy of it with keys of a JSON file changed, None removing one."""

    def make(file: str = "config.json", **changes: Any) -> Path:
        path = tmp_path / "changed"
        if not path.exists():
            shutil.copytree(small, path)
        values = json.loads((path / file).read_text())
        values.update(changes)
        values = {key: value for key, value in values.items() if value is not None}
        (path / file).write_text(json.dumps(values))
        return path

    return make
