"""Qwen3: grouped-query attention with a norm per head, and a dense FFN."""

from __future__ import annotations

from tensor_shapes import Config, Shapes
from tensor_shapes._grouped import Attention, dense


def attention(config: Config) -> Attention:
    """Norms per head; 128 channels is what transformers takes without `head_dim`."""
    bias = bool(config.get("attention_bias"))
    return Attention(head_norm=True, input_bias=bias, output_bias=bias, head_dim=128)


def shapes(config: Config) -> Shapes:
    """Every tensor of a `qwen3` checkpoint."""
    return dense(config, attention(config))
