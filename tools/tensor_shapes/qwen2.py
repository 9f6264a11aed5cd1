"""Qwen2: as Llama, with biases on queries, keys and values."""

from __future__ import annotations

from tensor_shapes import Config, Shapes
from tensor_shapes._grouped import Attention, dense


def shapes(config: Config) -> Shapes:
    """Every tensor of a `qwen2` checkpoint."""
    return dense(config, Attention(input_bias=True))
