"""Decoder layers with grouped-query attention, shared by several families."""

from __future__ import annotations

from dataclasses import dataclass

from tensor_shapes import Config, Shapes, decoder, linear, positive, swiglu


@dataclass(frozen=True)
class Attention:
    """What a family's attention has besides its four projections."""

    head_norm: bool = False
    input_bias: bool = False
    output_bias: bool = False
    head_dim: int | None = None
    """Channels of a head where the config does not say; None: the hidden size divided among the heads."""


def dense(config: Config, attention: Attention) -> Shapes:
    """Every tensor of a decoder whose layers all have a dense FFN."""
    layers: Shapes = {}
    for layer in range(positive(config, "num_hidden_layers")):
        layers |= dense_layer(config, attention, f"model.layers.{layer}.")
    return decoder(config, layers)


def dense_layer(config: Config, attention: Attention, prefix: str) -> Shapes:
    """One layer with a dense FFN."""
    width, bias = positive(config, "intermediate_size"), bool(config.get("mlp_bias"))
    return layer_around(
        config, attention, prefix, swiglu(f"{prefix}mlp.", positive(config, "hidden_size"), width, bias)
    )


def layer_around(config: Config, attention: Attention, prefix: str, mlp: Shapes) -> Shapes:
    """One layer with this FFN."""
    hidden, heads = positive(config, "hidden_size"), positive(config, "num_attention_heads")
    head = positive({"head_dim": attention.head_dim or hidden // heads, **config}, "head_dim")
    kv_heads, bias = positive(config, "num_key_value_heads"), attention.input_bias
    shapes: Shapes = {
        f"{prefix}input_layernorm.weight": (hidden,),
        **linear(f"{prefix}self_attn.q_proj", heads * head, hidden, bias),
        **linear(f"{prefix}self_attn.k_proj", kv_heads * head, hidden, bias),
        **linear(f"{prefix}self_attn.v_proj", kv_heads * head, hidden, bias),
        **linear(f"{prefix}self_attn.o_proj", hidden, heads * head, attention.output_bias),
    }
    if attention.head_norm:
        shapes |= {f"{prefix}self_attn.q_norm.weight": (head,), f"{prefix}self_attn.k_norm.weight": (head,)}
    return {**shapes, f"{prefix}post_attention_layernorm.weight": (hidden,), **mlp}
