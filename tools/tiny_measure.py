"""Perplexity of a checkpoint and of unigrams, over the same positions of the same tokens."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def windows(tokens: torch.Tensor, window: int) -> list[torch.Tensor]:
    """``tokens`` cut into consecutive windows; a rest of a single token predicts nothing and is left out."""
    return [part for part in tokens.split(window) if len(part) > 1]


def model_perplexity(folder: Path, tokens: torch.Tensor, window: int, every: int = 1) -> float:
    """Perplexity of the checkpoint in ``folder``, loaded in fp32, on every ``every``-th window.

    A window's first token is context only.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    total, count = 0.0, 0
    for part in windows(tokens, window)[::every]:
        with torch.no_grad():
            logits = model(input_ids=part[None, :-1], use_cache=False).logits[0]
        total += torch.nn.functional.cross_entropy(logits.double(), part[1:], reduction="sum").item()
        count += len(part) - 1
    return math.exp(total / count)


def unigram_perplexity(training: torch.Tensor, tokens: torch.Tensor, window: int, vocabulary: int) -> float:
    """Perplexity of the training frequencies with one added to each, at the positions the model predicts."""
    counts = torch.bincount(training, minlength=vocabulary).double() + 1
    log_probabilities = (counts / counts.sum()).log()
    predicted = torch.cat([part[1:] for part in windows(tokens, window)])
    return math.exp(-log_probabilities[predicted].mean().item())
