"""Qwen3-VL: a vision tower with DeepStack mergers, and Qwen3 as language model."""

from __future__ import annotations

from tensor_shapes import Config, Shapes, decoder, linear, positive
from tensor_shapes._grouped import dense_layer
from tensor_shapes.qwen3 import attention


def shapes(config: Config) -> Shapes:
    """Every tensor of a `qwen3_vl` checkpoint."""
    text = config["text_config"]
    layers: Shapes = {}
    for layer in range(positive(text, "num_hidden_layers")):
        layers |= dense_layer(text, attention(text), f"model.language_model.layers.{layer}.")
    tied = {"tie_word_embeddings": config.get("tie_word_embeddings", False)}
    return vision(config["vision_config"], "model.visual.") | decoder(
        {**text, **tied}, layers, prefix="model.language_model."
    )


def vision(config: Config, prefix: str) -> Shapes:
    """Patch embedding, positions, blocks and mergers."""
    hidden, width = positive(config, "hidden_size"), positive(config, "intermediate_size")
    patch, merge = positive(config, "patch_size"), positive(config, "spatial_merge_size")
    kernel = (positive(config, "in_channels"), positive(config, "temporal_patch_size"), patch, patch)
    shapes: Shapes = {
        f"{prefix}patch_embed.proj.weight": (hidden, *kernel),
        f"{prefix}patch_embed.proj.bias": (hidden,),
        f"{prefix}pos_embed.weight": (positive(config, "num_position_embeddings"), hidden),
    }
    for block in range(positive(config, "depth")):
        name = f"{prefix}blocks.{block}."
        shapes |= layer_norm(f"{name}norm1", hidden) | layer_norm(f"{name}norm2", hidden)
        shapes |= linear(f"{name}attn.qkv", 3 * hidden, hidden, bias=True)
        shapes |= linear(f"{name}attn.proj", hidden, hidden, bias=True)
        shapes |= linear(f"{name}mlp.linear_fc1", width, hidden, bias=True)
        shapes |= linear(f"{name}mlp.linear_fc2", hidden, width, bias=True)
    merged, out = hidden * merge**2, positive(config, "out_hidden_size")
    shapes |= merger(f"{prefix}merger.", hidden, merged, out)
    for tap in range(len(config["deepstack_visual_indexes"])):
        shapes |= merger(f"{prefix}deepstack_merger_list.{tap}.", merged, merged, out)
    return shapes


def merger(prefix: str, normed: int, merged: int, out: int) -> Shapes:
    """Projects neighbouring patches to one token; DeepStack's norm comes after the patches are joined."""
    return {
        **layer_norm(f"{prefix}norm", normed),
        **linear(f"{prefix}linear_fc1", merged, merged, bias=True),
        **linear(f"{prefix}linear_fc2", out, merged, bias=True),
    }


def layer_norm(name: str, size: int) -> Shapes:
    """Weight and bias."""
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}
