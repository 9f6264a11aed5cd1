"""Qwen3: dense, tied, with the keys and order of published config.json files."""

from __future__ import annotations

from transformers import Qwen3ForCausalLM

from tiny_families import END_OF_TEXT, TURN_END, TURN_START, VOCABULARY, Family, Plan, Tokens

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": VOCABULARY - 3,
    "eos_token_id": VOCABULARY - 1,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 160,
    "initializer_range": 0.02,
    "intermediate_size": 384,
    "max_position_embeddings": 4096,
    "max_window_layers": 5,
    "model_type": "qwen3",
    "num_attention_heads": 4,
    "num_hidden_layers": 5,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": VOCABULARY,
}

TOKENS = Tokens(special=(END_OF_TEXT, TURN_START, TURN_END), stops=(TURN_END, END_OF_TEXT))

FAMILY = Family(config=CONFIG, architecture=Qwen3ForCausalLM, tokens=TOKENS, plan=Plan())
