"""Perplexity of a checkpoint and of unigrams over the same positions of the same tokens, and its use of experts."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import transformers
from tiny_routing import Routers, shares


def windows(tokens: torch.Tensor, window: int) -> list[torch.Tensor]:
    """``tokens`` cut into consecutive windows; a rest of a single token predicts nothing and is left out."""
    return [part for part in tokens.split(window) if len(part) > 1]


def load(folder: Path) -> torch.nn.Module:
    """The model of the class that config.json names, in fp32."""
    (name,) = transformers.AutoConfig.from_pretrained(folder).architectures
    return getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()


def model_perplexity(folder: Path, tokens: torch.Tensor, window: int, every: int = 1) -> float:
    """Perplexity of the checkpoint in ``folder``, loaded in fp32, on every ``every``-th window.

    A window's first token is context only.
    """
    model = load(folder)
    total, count = 0.0, 0
    for part in windows(tokens, window)[::every]:
        with torch.no_grad():
            logits = model(input_ids=part[None, :-1], use_cache=False).logits[0]
        total += torch.nn.functional.cross_entropy(logits.double(), part[1:], reduction="sum").item()
        count += len(part) - 1
    return math.exp(total / count)


def expert_shares(folder: Path, tokens: torch.Tensor, window: int, every: int = 1) -> list[list[float]]:
    """Per layer with experts, the share that each expert has in all choices; empty without such layers."""
    model = load(folder)
    routers = Routers(model)
    chosen: list[list[torch.Tensor]] = [[] for _ in routers.routers]
    for part in windows(tokens, window)[::every]:
        with torch.no_grad():
            model(input_ids=part[None, :-1], use_cache=False)
        for layer, (_, experts) in zip(chosen, routers.take(), strict=True):
            layer.append(experts)
    counts = [router.num_experts for router in routers.routers]
    found = [shares(torch.cat(layer), count) for layer, count in zip(chosen, counts, strict=True)]
    return [[round(share, 4) for share in layer.tolist()] for layer in found]


def unigram_perplexity(training: torch.Tensor, tokens: torch.Tensor, window: int, vocabulary: int) -> float:
    """Perplexity of the training frequencies with one added to each, at the positions the model predicts."""
    counts = torch.bincount(training, minlength=vocabulary).double() + 1
    log_probabilities = (counts / counts.sum()).log()
    predicted = torch.cat([part[1:] for part in windows(tokens, window)])
    return math.exp(-log_probabilities[predicted].mean().item())
