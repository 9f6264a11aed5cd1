"""Starts a model from the layers of the bundled Qwen3 instead of random weights, so that little training does.

Experts are slices of the dense FFN, as in sparse upcycling (arXiv:2212.05055) and LLaMA-MoE (arXiv:2406.16554).
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

QWEN3 = Path(__file__).parents[1] / "inference_pio/tiny/qwen3/model.safetensors"
EXPERT_SCALE = 4.0  # two of eight slices, weighted to 1 together, stand for all eight


@torch.no_grad()
def start_from_qwen3(model: torch.nn.Module, layers: tuple[int, ...]) -> None:
    """Copy embedding, norms and these layers of Qwen3 into the layers of `model`, in this order.

    An untied head starts as the embedding; rows of tokens that Qwen3 lacks stay as they are.
    """
    source = {name: tensor.float() for name, tensor in load_file(QWEN3).items()}
    target = model.state_dict()
    prefix = "model.language_model." if "model.language_model.norm.weight" in target else "model."
    embedding = source["model.embed_tokens.weight"]
    for name in (f"{prefix}embed_tokens.weight", "lm_head.weight"):
        target[name][: len(embedding)] = embedding
    target[f"{prefix}norm.weight"].copy_(source["model.norm.weight"])
    for number, chosen in enumerate(layers):
        for name, tensor in source.items():
            if name.startswith(f"model.layers.{chosen}."):
                copy_tensor(target, f"{prefix}layers.{number}.{name.split('.', 3)[3]}", tensor)


def copy_tensor(target: dict[str, torch.Tensor], name: str, tensor: torch.Tensor) -> None:
    """Copy one tensor of a layer, into slices where the model has experts."""
    layer, _, part = name.partition(".mlp.")
    experts = target.get(f"{layer}.mlp.experts.gate_up_proj")
    if not part or experts is None:
        target[name].copy_(tensor)
    elif part == "down_proj.weight":
        slices = tensor.chunk(len(experts), dim=1)
        target[f"{layer}.mlp.experts.down_proj"].copy_(EXPERT_SCALE * torch.stack(slices))
    else:
        rows = experts.chunk(2, dim=1)[0 if part == "gate_proj.weight" else 1]
        rows.copy_(torch.stack(tensor.chunk(len(experts))))
