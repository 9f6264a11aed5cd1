"""Keeps the routers of a mixture of experts from using a few experts alone, and counts what they use."""

from __future__ import annotations

from enum import Enum

import torch


class Balance(Enum):
    """How a family's experts are kept in use."""

    NONE = "none"
    LOSS = "loss"  # Switch Transformers (arXiv:2101.03961): a loss on each layer's mean probabilities
    BIAS = "bias"  # DeepSeek-V3 (arXiv:2412.19437): the bias that only the choice of experts sees


LOSS_SHARE = 0.003  # small, so that text decides and some experts stay rare
BIAS_STEP = 0.002
RARE, OFTEN = 0.5, 2.0  # uses, relative to the average, beyond which the bias moves


class Routers:
    """Watches every router of `model` (a module that returns logits, weights and indices of experts)."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.routers = [module for name, module in model.named_modules() if name.endswith("mlp.gate")]
        self._seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._hooks = [router.register_forward_hook(self._see) for router in self.routers]

    def _see(self, _: torch.nn.Module, __: object, found: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
        self._seen.append((found[0], found[2]))

    def take(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Logits [T, E] and chosen experts [T, K] of each router since the last call, in the order of the layers."""
        seen, self._seen = self._seen, []
        return seen

    def close(self) -> None:
        """Stop watching."""
        for hook in self._hooks:
            hook.remove()


def shares(experts: torch.Tensor, count: int) -> torch.Tensor:
    """How often each of `count` experts is among `experts`, relative to all uses; sums to 1."""
    return torch.bincount(experts.flatten(), minlength=count) / experts.numel()


def balance_loss(seen: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """What to add to the loss: LOSS_SHARE in each layer where all experts are used alike, more elsewhere."""
    losses = []
    for logits, experts in seen:
        count = logits.shape[-1]
        losses.append(count * (shares(experts, count) * logits.float().softmax(-1).mean(0)).sum())
    return LOSS_SHARE * torch.stack(losses).sum()


@torch.no_grad()
def move_bias(routers: list[torch.nn.Module], seen: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Raise the bias of rarely chosen experts and lower that of often chosen ones by BIAS_STEP."""
    for router, (logits, experts) in zip(routers, seen, strict=True):
        count = logits.shape[-1]
        relative = count * shares(experts, count)
        router.e_score_correction_bias += BIAS_STEP * ((relative < RARE).float() - (relative > OFTEN).float())
