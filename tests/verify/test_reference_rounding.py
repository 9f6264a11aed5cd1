"""The streamed reference rounds activations as integer kernels do, in front of every product."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.verify import reference
from inference_pio.verify.weights import InputRounding

sys.path.insert(0, str(Path(__file__).parents[1]))
from reference_cases import SpyingWeights, make_windows, streamed, whole
from shapes import original, write_shape

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("block", [16, 32, 64])
def test_rounded_activations_reach_every_linear_layer(block: int, tmp_path: Path) -> None:
    path = write_shape("bias", tmp_path / "checkpoint")
    windows = make_windows(2048, (20, 20))
    model = original(path)

    def round_input(_: torch.nn.Module, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (torch.from_numpy(rounded(arguments[0].numpy(), block)),)

    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    hooks = [m.register_forward_pre_hook(round_input) for m in linears]
    assert len(hooks) == 3 * 7 + 1
    expected = whole(model, windows)
    with Checkpoint.open(path) as checkpoint:
        found = streamed(path, windows, SpyingWeights(checkpoint, block))
    exact = whole(original(path), windows)
    # A value halfway between two steps may be rounded to either side, and moves what follows.
    assert np.abs(found - expected).mean() < 0.1 * np.abs(exact - expected).mean()


def test_rounded_activations_reach_every_product_of_the_experts(tmp_path: Path) -> None:
    """In one layer: behind it values near the edge between two steps fall to either side, and pull others along."""
    path = write_shape("moe", tmp_path / "checkpoint")
    windows = make_windows(2048, (20, 20))
    model, untouched = original(path), original(path)
    model.model.layers, untouched.model.layers = model.model.layers[:1], untouched.model.layers[:1]

    def round_input(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (torch.from_numpy(rounded(arguments[0].numpy(), 16)), *arguments[1:])

    def experts(module: torch.nn.Module, x: torch.Tensor, index: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x)
        inner = torch.from_numpy(rounded(x.numpy(), 16))
        for token in range(len(x)):
            for place, expert in enumerate(index[token].tolist()):
                gate, up = (module.gate_up_proj[expert] @ inner[token]).chunk(2)
                open_F = torch.nn.functional.silu(gate) * up
                out = module.down_proj[expert] @ torch.from_numpy(rounded(open_F.numpy()[None], 16))[0]
                total[token] += share[token, place] * out
        return total

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) or name.endswith("mlp.gate"):
            module.register_forward_pre_hook(round_input)
        if name.endswith("mlp.experts"):
            module.forward = partial(experts, module)
    expected = whole(model, windows)
    with Checkpoint.open(path) as checkpoint:
        found = streamed(path, windows, SpyingWeights(checkpoint, 16), layers=1)
    exact = whole(untouched, windows)
    assert np.abs(found - expected).mean() < 0.1 * np.abs(exact - expected).mean()


def rounded(x: np.ndarray, block: int) -> np.ndarray:
    """Rounding to int8 per row and block, one block at a time."""
    result = x.copy()
    for start in range(0, x.shape[-1], block):
        part = x[..., start : start + block]
        scale = np.abs(part).max(axis=-1, keepdims=True) / np.float32(127)
        steps = np.divide(part, scale, out=np.zeros_like(part), where=scale != 0)
        result[..., start : start + block] = np.rint(steps) * scale
    return result


@pytest.mark.parametrize(("columns", "block"), [(64, 32), (40, 32), (7, 16), (16, 16)])
def test_rounding_by_block(columns: int, block: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, columns)).astype(np.float32)
    x[0, 0] = 0
    x[0, 1] *= 1e-30
    found = reference.round_activations(torch.from_numpy(x), InputRounding(block)).numpy()
    assert found.shape == x.shape
    assert np.isfinite(found).all()
    assert np.allclose(found, rounded(x, block), rtol=1e-6, atol=0)
    assert (found[0, 0] == 0).all()
