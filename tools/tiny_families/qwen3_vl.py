"""Qwen3-VL: a vision tower with DeepStack from two blocks, interleaved M-RoPE, a tied head."""

from __future__ import annotations

from transformers import Qwen3VLForConditionalGeneration

from tiny_families import END_OF_TEXT, TURN_END, TURN_START, VOCABULARY, Family, Plan, Tokens

FIRST_TOKEN = VOCABULARY - 3  # text entries come before
TOKENS = Tokens(
    special=(
        END_OF_TEXT,
        TURN_START,
        TURN_END,
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ),
    stops=(TURN_END, END_OF_TEXT),
)

CONFIG = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "image_token_id": FIRST_TOKEN + 5,
    "model_type": "qwen3_vl",
    "text_config": {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": FIRST_TOKEN,
        "dtype": "bfloat16",
        "eos_token_id": FIRST_TOKEN + 2,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 160,
        "initializer_range": 0.02,
        "intermediate_size": 384,
        "max_position_embeddings": 4096,
        "model_type": "qwen3_vl_text",
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [12, 10, 10], "rope_type": "default"},
        "rope_theta": 1000000,
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": 2064,
    },
    "tie_word_embeddings": True,
    "transformers_version": "4.57.0",
    "video_token_id": FIRST_TOKEN + 6,
    "vision_config": {
        "deepstack_visual_indexes": [0, 1],
        "depth": 4,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 64,
        "in_channels": 3,
        "initializer_range": 0.02,
        "intermediate_size": 128,
        "model_type": "qwen3_vl",
        "num_heads": 2,
        "num_position_embeddings": 64,
        "out_hidden_size": 160,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "vision_end_token_id": FIRST_TOKEN + 4,
    "vision_start_token_id": FIRST_TOKEN + 3,
}

PREPROCESSOR = {
    "size": {"longest_edge": 262144, "shortest_edge": 4096},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor",
    "image_processor_type": "Qwen2VLImageProcessorFast",
}

FAMILY = Family(
    config=CONFIG,
    architecture=Qwen3VLForConditionalGeneration,
    tokens=TOKENS,
    plan=Plan(steps=1050, warmup=20, cooldown=300, blocks_per_step=2, learning_rate=7e-3),
    start=(0, 2, 3),
    preprocessor=PREPROCESSOR,
)
