"""Published configs with sizes in which no two agree by accident."""

from __future__ import annotations

from typing import Any

from random_shapes import published_config

ODD = {
    "head_dim": 24,
    "hidden_size": 90,
    "intermediate_size": 101,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "vocab_size": 2053,
}
ODD_EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 35}
ODD_LATENT = {
    **{key: ODD[key] for key in ("hidden_size", "intermediate_size", "vocab_size", "num_attention_heads")},
    "num_key_value_heads": 6,
    "pad_token_id": 2051,
    "n_routed_experts": 5,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 35,
    "q_lora_rank": 31,
    "kv_lora_rank": 29,
    "qk_nope_head_dim": 22,
    "qk_rope_head_dim": 14,
    "v_head_dim": 19,
}
ODD_VISION = {
    "hidden_size": 60,
    "intermediate_size": 77,
    "num_heads": 5,
    "num_position_embeddings": 49,
    "out_hidden_size": 90,
    "patch_size": 6,
    "in_channels": 4,
}


def odd(shape: str, layers: int, **changes: object) -> dict[str, Any]:
    """A published config in which no two sizes agree by accident."""
    config = published_config(shape, layers)
    if "vision_config" in config:
        text = {**config["text_config"], **ODD, **changes}
        return {**config, "text_config": text, "vision_config": {**config["vision_config"], **ODD_VISION}}
    sizes = {"qwen3_moe": {**ODD, **ODD_EXPERTS}, "glm4_moe_lite": ODD_LATENT}.get(config["model_type"], ODD)
    if "head_dim" not in config and sizes is ODD:
        sizes = {**{key: value for key, value in sizes.items() if key != "head_dim"}, "hidden_size": 84}
    return {**config, **sizes, **changes}
