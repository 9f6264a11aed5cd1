"""Llama 3: grouped-query attention and a dense FFN."""

from __future__ import annotations

from tensor_shapes import Config, Shapes
from tensor_shapes._grouped import Attention, dense


def shapes(config: Config) -> Shapes:
    """Every tensor of a `llama` checkpoint."""
    bias = bool(config.get("attention_bias"))
    return dense(config, Attention(input_bias=bias, output_bias=bias))
