"""Muon for matrices and for stacks of matrices such as fused experts, which torch.optim.Muon refuses."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the quintic that pushes singular values towards 1
ITERATIONS = 5
TINY = 1e-7


def orthogonal(stack: torch.Tensor) -> torch.Tensor:
    """Each matrix of `stack` [..., R, C] with its singular values pushed to about 1, as bfloat16.

    Newton-Schulz iteration of Keller Jordan, Muon: An optimizer for hidden layers in neural networks (2024).
    """
    a, b, c = COEFFICIENTS
    tall = stack.shape[-2] > stack.shape[-1]
    x = (stack.mT if tall else stack).bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=TINY)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def as_matrices(tensor: torch.Tensor) -> torch.Tensor:
    """A convolution's kernel [R, ...] as the matrix that it is; matrices and stacks of them stay."""
    return tensor.flatten(1) if tensor.ndim > 3 else tensor


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal before the step, at the step size that suits AdamW."""

    def __init__(self, params: Iterable[torch.Tensor], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(gradient)
                state["momentum"].lerp_(gradient, 1 - momentum)
                update = as_matrices(gradient.lerp(state["momentum"], momentum))
                step = orthogonal(update).to(parameter.dtype).reshape_as(parameter)
                parameter.mul_(1 - rate * group["weight_decay"])
                parameter.add_(step, alpha=-0.2 * rate * math.sqrt(max(update.shape[-2:])))
