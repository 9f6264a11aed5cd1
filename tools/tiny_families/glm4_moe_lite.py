"""GLM-4.7-Flash: latent attention, a sigmoid router whose bias only chooses, a shared expert, reasoning in the chat.

The layer for multi-token prediction holds random weights: whoever took it for a decoder layer would notice.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from tensor_shapes import tensor_shapes
from tiny_routing import Balance
from transformers import Glm4MoeLiteForCausalLM

from tiny_families import END_OF_TEXT, VOCABULARY, Family, Plan, Tokens

FIRST_TOKEN = VOCABULARY - 3  # text entries come before
TOKENS = Tokens(
    special=(END_OF_TEXT, "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    stops=(END_OF_TEXT, "<|user|>", "<|observation|>"),
    visible=(
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<tool_response>",
        "</tool_response>",
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
    ),
    tokenizer_class="PreTrainedTokenizerFast",
)

CONFIG = {
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "pad_token_id": FIRST_TOKEN,
    "eos_token_id": [FIRST_TOKEN, FIRST_TOKEN + 4, FIRST_TOKEN + 6],
    "hidden_act": "silu",
    "hidden_size": 96,
    "intermediate_size": 384,
    "max_position_embeddings": 4096,
    "model_type": "glm4_moe_lite",
    "moe_intermediate_size": 64,
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "n_group": 1,
    "topk_group": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.8,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "num_nextn_predict_layers": 1,
    "partial_rotary_factor": 1.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
    "transformers_version": "5.0.0",
    "q_lora_rank": 64,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 48,
    "vocab_size": 2064,
}


def prediction_tensors(config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """The layers after the last one, random: matrices scaled by fan-in, norms around 1."""
    generator = torch.Generator().manual_seed(seed)
    prefix = f"model.layers.{config['num_hidden_layers']}."
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        if name.startswith(prefix):
            values = torch.randn(shape, generator=generator)
            tensors[name] = 1 + 0.1 * values if name.endswith("norm.weight") else values / math.sqrt(shape[-1])
    return tensors


FAMILY = Family(
    config=CONFIG,
    architecture=Glm4MoeLiteForCausalLM,
    tokens=TOKENS,
    plan=Plan(steps=800, warmup=80, cosine=2000, cooldown=300, blocks_per_step=2, tool_chats=400),
    balance=Balance.BIAS,
    thinks=True,
    extra_tensors=prediction_tensors,
)
