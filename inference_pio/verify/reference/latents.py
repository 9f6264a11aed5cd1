"""Latent attention whose queries and results are rounded on their way into the latent's space and out of it.

An artifact multiplies the unrotated part of a query by the head's key weight, and the mix of latents that a head
attended to by its value weight; a kernel that rounds its input rounds these two. Here the attention stays that of
transformers: queries are rounded where they are made, latents stand in for values, and what comes out of attention is
rounded and becomes values in front of the output projection.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from inference_pio.verify.reference.rounding import round_activations
from inference_pio.verify.weights import InputRounding, ModelWeights


def round_latents(layer: Any, prefix: str, weights: ModelWeights) -> None:
    """Let the latent attention of a layer, if it has one, round as the artifact's products by head do."""
    for name, module in layer.named_modules():
        if not hasattr(module, "kv_b_proj"):
            continue
        tensor = f"{prefix}{name}.kv_b_proj.weight"
        key, value = (weights.input_rounding(f"{tensor}[{part}.0]") for part in ("key", "value"))
        if key is not None:
            queries = module.q_proj if module.q_lora_rank is None else module.q_b_proj
            queries.register_forward_hook(partial(_round_queries, module, key))
        if value is not None:
            module.expand_kv = partial(_keys_and_latents, module.expand_kv, module.num_heads)
            module.o_proj.register_forward_pre_hook(partial(_values, module, value))


def _round_queries(attention: Any, how: InputRounding, _: Any, __: Any, q_BSN: torch.Tensor) -> torch.Tensor:
    q_BSHD = q_BSN.unflatten(-1, (attention.num_heads, -1))
    sizes = [attention.qk_nope_head_dim, attention.qk_rope_head_dim]
    q_BSHU, q_BSHR = torch.split(q_BSHD, sizes, dim=-1)
    return torch.cat([round_activations(q_BSHU, how), q_BSHR], dim=-1).flatten(-2)


def _keys_and_latents(
    expand: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    heads: int,
    latent_B1TL: torch.Tensor,
    k_B1TR: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    key_BHTD, _ = expand(latent_B1TL, k_B1TR)
    return key_BHTD, latent_B1TL.expand(-1, heads, -1, -1)


def _values(attention: Any, how: InputRounding, _: Any, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    mix_BSHL = round_activations(arguments[0].unflatten(-1, (attention.num_heads, -1)), how)
    weight_HDL = attention.kv_b_proj.weight.unflatten(0, (attention.num_heads, -1))
    value_HNL = weight_HDL[:, attention.qk_nope_head_dim :]
    return (torch.einsum("bshl,hnl->bshn", mix_BSHL, value_HNL).flatten(-2),)
