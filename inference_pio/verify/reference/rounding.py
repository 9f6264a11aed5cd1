"""Activations, keys and values rounded to int8 as kernels do it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from inference_pio.verify.weights import CacheSteps, InputRounding


def round_activations(x: torch.Tensor, how: InputRounding) -> torch.Tensor:
    """`x` [..., K] rounded as a kernel with int8 activations does; see `InputRounding`."""
    exact = list(how.exact)
    inner = x
    if exact:
        inner = x.clone()
        inner[..., exact] = 0
    if how.step is not None:
        rounded = _round_fixed(inner, how.step)
    else:
        rounded = _round_rows(inner) if how.block is None else _round_blocks(inner, how.block)
    if exact:
        rounded[..., exact] = x[..., exact]
    return rounded


def _round_fixed(x: torch.Tensor, step: float) -> torch.Tensor:
    return torch.clamp(torch.round(x / step), -128, 127) * step


def _round_rows(x: torch.Tensor) -> torch.Tensor:
    """Two divisions, as the graph makes them: a product with 127 / largest would round near ties to the other side."""
    largest = x.abs().amax(dim=-1, keepdim=True)
    levels = torch.round(x / torch.where(largest > 0, largest, 1) / float(np.float32(1 / 127)))
    return levels * (largest / 127.0)


def _round_blocks(x: torch.Tensor, block: int) -> torch.Tensor:
    columns = x.shape[-1]
    padded = nn.functional.pad(x, (0, -columns % block))
    blocks = padded.reshape(*x.shape[:-1], -1, block)
    largest = blocks.abs().amax(dim=-1, keepdim=True)
    inverse = torch.where(largest > 0, 127.0 / largest, torch.zeros_like(largest))
    rounded = torch.round(blocks * inverse) * (largest / 127.0)
    return rounded.reshape(padded.shape)[..., :columns]


class RoundingCache:
    """What a layer takes for its cache: holds nothing, and gives keys and values back as an int8 cache would."""

    def __init__(self, steps: CacheSteps) -> None:
        self._steps = [torch.from_numpy(array)[None, :, None, :] for array in (steps.key, steps.value)]

    def update(
        self, key_BGSD: torch.Tensor, value_BGSD: torch.Tensor, layer_idx: int, cache_kwargs: object = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        key, value = (
            torch.clamp(torch.round(x * (1 / step)), -128, 127) * step
            for x, step in zip((key_BGSD, value_BGSD), self._steps, strict=True)
        )
        return key, value
