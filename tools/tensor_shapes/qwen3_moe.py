"""Qwen3-MoE: the attention of Qwen3, and experts in place of the FFN of most layers."""

from __future__ import annotations

from dataclasses import replace

from tensor_shapes import Config, Shapes, decoder, experts, positive
from tensor_shapes._grouped import dense_layer, layer_around
from tensor_shapes.qwen3 import attention


def shapes(config: Config) -> Shapes:
    """Every tensor of a `qwen3_moe` checkpoint."""
    step, dense = int(config.get("decoder_sparse_step", 1)), set(config.get("mlp_only_layers") or ())
    hidden, count = positive(config, "hidden_size"), positive(config, "num_experts")
    width, heads = positive(config, "moe_intermediate_size"), replace(attention(config), head_dim=None)
    layers: Shapes = {}
    for layer in range(positive(config, "num_hidden_layers")):
        prefix = f"model.layers.{layer}."
        if layer in dense or (layer + 1) % step:
            layers |= dense_layer(config, heads, prefix)
        else:
            layers |= layer_around(config, heads, prefix, experts(f"{prefix}mlp.", count, hidden, width))
    return decoder(config, layers)
