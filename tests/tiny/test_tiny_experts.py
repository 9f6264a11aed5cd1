"""Experts of the bundled checkpoints: all are used, some rarely, and the bias of GLM's routers matters."""

from __future__ import annotations

import pytest
import torch
from tiny_cases import Bundled
from tiny_corpus import HELD_OUT_FILE
from tiny_measure import expert_shares, load
from tokenizers import Tokenizer

from inference_pio.tiny import tiny_checkpoint

LAYERS = {"qwen3_moe": 4, "glm4_moe_lite": 3}


def held_out(name: str) -> torch.Tensor:
    tokenizer = Tokenizer.from_file(str(tiny_checkpoint(name) / "tokenizer.json"))
    return torch.tensor(tokenizer.encode(HELD_OUT_FILE.read_text(encoding="utf-8")).ids)


def test_experts_are_used_as_recorded(bundled: Bundled) -> None:
    recorded = bundled.training.get("expert_shares", [])
    assert len(recorded) == LAYERS.get(bundled.name, 0)
    if not recorded:
        return
    found = expert_shares(
        bundled.folder, held_out(bundled.name), bundled.training["window"], bundled.training["sample_every"]
    )
    for layer, expected in zip(found, recorded, strict=True):
        assert layer == pytest.approx(expected, abs=0.003)
        assert sum(layer) == pytest.approx(1, abs=0.001)
        assert min(layer) > 0 and sum(share > 0.05 for share in layer) >= 5  # of 8
    shares = [share for layer in found for share in layer]
    assert max(shares) > 2 * min(shares)


def test_without_the_bias_other_experts_are_chosen() -> None:
    model = load(tiny_checkpoint("glm4_moe_lite"))
    ids = held_out("glm4_moe_lite")[None, :512]
    routers = [layer.mlp.gate for layer in model.model.layers[1:]]
    chosen: list[torch.Tensor] = []
    for router in routers:
        router.register_forward_hook(lambda _, __, found: chosen.append(found[2].sort(-1).values))
    with torch.no_grad():
        logits = model(ids).logits
        for router in routers:
            router.e_score_correction_bias.zero_()
        changed = model(ids).logits
    first, second = chosen[:3], chosen[3:]
    shares = [(a != b).any(-1).float().mean().item() for a, b in zip(first, second, strict=True)]
    assert max(shares) > 0.02
    assert (logits - changed).abs().max() > 0.1
