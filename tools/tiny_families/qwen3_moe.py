"""Qwen3-MoE in the form of Qwen3-Coder: every layer sparse, an untied head, tool calls in XML."""

from __future__ import annotations

from tiny_routing import Balance
from transformers import Qwen3MoeForCausalLM

from tiny_families import VOCABULARY, Family, Plan
from tiny_families.qwen3 import TOKENS

CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_dropout": 0.0,
    "decoder_sparse_step": 1,
    "eos_token_id": VOCABULARY - 1,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 160,
    "initializer_range": 0.02,
    "intermediate_size": 384,
    "max_position_embeddings": 4096,
    "max_window_layers": 4,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 48,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "output_router_logits": False,
    "qkv_bias": False,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "router_aux_loss_coef": 0.0,
    "shared_expert_intermediate_size": 0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.52.3",
    "use_cache": True,
    "use_qk_norm": True,
    "use_sliding_window": False,
    "vocab_size": VOCABULARY,
}

FAMILY = Family(
    config=CONFIG,
    architecture=Qwen3MoeForCausalLM,
    tokens=TOKENS,
    plan=Plan(steps=320, warmup=20, cooldown=300, blocks_per_step=2, learning_rate=5e-3, tool_chats=400),
    start=(0, 2, 3, 4),
    balance=Balance.LOSS,
)
