"""Mistral: as Llama, never with biases."""

from __future__ import annotations

from tensor_shapes import Config, Shapes
from tensor_shapes._grouped import Attention, dense


def shapes(config: Config) -> Shapes:
    """Every tensor of a `mistral` checkpoint."""
    return dense(config, Attention())
