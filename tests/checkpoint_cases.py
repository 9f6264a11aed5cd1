"""A small sound checkpoint, and ways to damage it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from random_checkpoint import published_config, write_random_checkpoint

SMALL = {
    "vocab_size": 2048,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
}
Q = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"
TABLE = "model.embed_tokens.weight"


def write_sound(path: Path) -> Path:
    """A Qwen3 of random weights with every tensor above."""
    write_random_checkpoint(path, {**published_config("qwen3-0.6b"), **SMALL}, dtype="fp32")
    return path


def change_config(checkpoint: Path, name: str = "config.json", **changes: object) -> None:
    values = {**json.loads((checkpoint / name).read_text()), **changes}
    (checkpoint / name).write_text(json.dumps(values))


def change_tensors(checkpoint: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    edit(tensors)
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
