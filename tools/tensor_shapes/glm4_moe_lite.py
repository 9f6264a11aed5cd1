"""GLM-4.7-Flash: latent attention, experts beside a shared one, and a layer for multi-token prediction."""

from __future__ import annotations

from tensor_shapes import Config, Shapes, decoder, experts, linear, positive, swiglu


def shapes(config: Config) -> Shapes:
    """Every tensor of a `glm4_moe_lite` checkpoint; the layers of multi-token prediction follow the others."""
    count = positive(config, "num_hidden_layers")
    dense = int(config.get("first_k_dense_replace", 1))
    layers: Shapes = {}
    for layer in range(count):
        prefix = f"model.layers.{layer}."
        layers |= attention(config, prefix) | (mixture if layer >= dense else dense_mlp)(config, f"{prefix}mlp.")
    for layer in range(count, count + int(config.get("num_nextn_predict_layers", 0))):
        layers |= prediction_layer(config, f"model.layers.{layer}.")
    return decoder(config, layers)


def attention(config: Config, prefix: str) -> Shapes:
    """Latent attention and the layer's norms."""
    hidden, heads = positive(config, "hidden_size"), positive(config, "num_attention_heads")
    query_rank, rank = positive(config, "q_lora_rank"), positive(config, "kv_lora_rank")
    nope, rope = positive(config, "qk_nope_head_dim"), positive(config, "qk_rope_head_dim")
    value, bias = positive(config, "v_head_dim"), bool(config.get("attention_bias"))
    return {
        f"{prefix}input_layernorm.weight": (hidden,),
        **linear(f"{prefix}self_attn.q_a_proj", query_rank, hidden, bias),
        f"{prefix}self_attn.q_a_layernorm.weight": (query_rank,),
        **linear(f"{prefix}self_attn.q_b_proj", heads * (nope + rope), query_rank),
        **linear(f"{prefix}self_attn.kv_a_proj_with_mqa", rank + rope, hidden, bias),
        f"{prefix}self_attn.kv_a_layernorm.weight": (rank,),
        **linear(f"{prefix}self_attn.kv_b_proj", heads * (nope + value), rank),
        **linear(f"{prefix}self_attn.o_proj", hidden, heads * value, bias),
        f"{prefix}post_attention_layernorm.weight": (hidden,),
    }


def dense_mlp(config: Config, prefix: str) -> Shapes:
    """The FFN of the first layers."""
    return swiglu(prefix, positive(config, "hidden_size"), positive(config, "intermediate_size"))


def mixture(config: Config, prefix: str) -> Shapes:
    """Router with its bias, experts and the shared expert."""
    hidden, width = positive(config, "hidden_size"), positive(config, "moe_intermediate_size")
    count = positive(config, "n_routed_experts")
    return {
        **experts(prefix, count, hidden, width),
        f"{prefix}gate.e_score_correction_bias": (count,),
        **swiglu(f"{prefix}shared_experts.", hidden, width * positive(config, "n_shared_experts")),
    }


def prediction_layer(config: Config, prefix: str) -> Shapes:
    """A sparse layer with an embedding and a head of its own (DeepSeek-V3, arXiv:2412.19437, section 2.2)."""
    hidden = positive(config, "hidden_size")
    embedding = (positive(config, "vocab_size"), hidden)
    return {
        f"{prefix}embed_tokens.weight": embedding,
        f"{prefix}enorm.weight": (hidden,),
        f"{prefix}hnorm.weight": (hidden,),
        **linear(f"{prefix}eh_proj", hidden, 2 * hidden),
        **attention(config, prefix),
        **mixture(config, f"{prefix}mlp."),
        f"{prefix}shared_head.norm.weight": (hidden,),
        f"{prefix}shared_head.head.weight": embedding,
    }
