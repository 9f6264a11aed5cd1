"""Weights as torch tensors, with a word for what is missing or of another shape."""

from __future__ import annotations

import math

import torch

from inference_pio.errors import BadInputError
from inference_pio.verify.weights import ModelWeights


def load_tensor(name: str, expected: torch.Tensor, weights: ModelWeights) -> torch.Tensor:
    """A whole tensor, which must have the shape of `expected`; raises BadInputError as `check_shape`."""
    check_shape(name, tuple(expected.shape), weights)
    return torch.from_numpy(weights.rows(name, 0, expected.shape[0])).reshape(expected.shape)


def check_shape(name: str, expected: tuple[int, ...], weights: ModelWeights) -> None:
    """Raise BadInputError unless `weights` has the tensor in this shape, or a convolution's as a matrix."""
    shape = weights.shape(name)
    if shape != expected and not (len(expected) > 2 and shape == (expected[0], math.prod(expected[1:]))):
        stored = "is missing" if shape is None else f"has shape {list(shape)}"
        raise BadInputError(f"tensor '{name}' {stored}; config.json asks for {list(expected)}")
