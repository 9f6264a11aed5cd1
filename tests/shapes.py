"""Random checkpoints in odd shapes, written by transformers itself, and its answers in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from inference_pio.tiny import tiny_checkpoint

SMALL: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 2048,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
}

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

MOE: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
}

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "one_layer": {"num_hidden_layers": 1},
    "untied": {"tie_word_embeddings": False},
    "yarn": {"rope_parameters": YARN},
    "llama3": {"rope_parameters": LLAMA3},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}},
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}},
    "window_one_kv_head": {
        "num_key_value_heads": 1,
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 1,
    },
    "odd_heads": {"num_attention_heads": 3, "num_key_value_heads": 3, "hidden_size": 72},
    "bias": {"attention_bias": True, "head_dim": 48},
    "odd_sizes": {"hidden_size": 40, "intermediate_size": 56, "head_dim": 16, "vocab_size": 2049},
    "qwen2": {"model_type": "qwen2", "hidden_size": 64, "head_dim": 16},
    "qwen2_windows": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 1,
        "tie_word_embeddings": False,
    },
    "llama": {"model_type": "llama", "rope_parameters": LLAMA3},
    "llama_biases": {
        "model_type": "llama",
        "attention_bias": True,
        "mlp_bias": True,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "mistral": {"model_type": "mistral", "sliding_window": 16, "tie_word_embeddings": False},
    "mistral_no_window": {"model_type": "mistral", "sliding_window": None, "head_dim": 48},
}

MOE_SHAPES: dict[str, dict[str, Any]] = {
    "moe": MOE,
    "moe_one_expert_per_token": {**MOE, "num_experts_per_tok": 1},
    "moe_all_experts": {**MOE, "num_experts": 3, "num_experts_per_tok": 3, "norm_topk_prob": False},
    "moe_dense_between": {**MOE, "mlp_only_layers": [1], "norm_topk_prob": False, "attention_bias": True},
    "moe_every_second": {**MOE, "decoder_sparse_step": 2, "moe_intermediate_size": 24, "num_experts": 5},
}

GLM: dict[str, Any] = {
    "model_type": "glm4_moe_lite",
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 40,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "head_dim": 8,  # another name of the line above
    "v_head_dim": 24,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "tie_word_embeddings": False,
}
DEEPSEEK_YARN = {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7}

GLM_SHAPES: dict[str, dict[str, Any]] = {
    "glm": GLM,
    "glm_odd_heads": {**GLM, "num_attention_heads": 3, "num_key_value_heads": 3, "hidden_size": 72, "v_head_dim": 16},
    "glm_dense": {**GLM, "mlp_layer_types": ["dense"] * 3, "v_head_dim": 16},
    "glm_direct_queries": {
        **GLM,
        "mlp_layer_types": ["dense"] * 3,
        "q_lora_rank": None,
        "rope_interleave": False,
        "tie_word_embeddings": True,
    },
    "glm_bias": {**GLM, "attention_bias": True, "n_shared_experts": 2, "num_experts_per_tok": 1},
    "glm_sparse_first": {**GLM, "mlp_layer_types": ["sparse", "dense", "sparse"], "norm_topk_prob": False},
    "glm_yarn": {**GLM, "rope_parameters": DEEPSEEK_YARN, "routed_scaling_factor": 1.0},
}
ALL_SHAPES = SHAPES | MOE_SHAPES | GLM_SHAPES


def randomize(model: torch.nn.Module, bias: float) -> None:
    """Random values for every parameter: biases of that deviation around 0, norms around 1, weights small."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.normal_(0, bias)
            elif "norm" in key:
                parameter.normal_(1, 0.2)
            else:
                parameter.normal_(0, 0.1)


def write_shape(
    name: str, out: Path, dtype: torch.dtype = torch.float32, shard_size: str = "5GB", **changes: Any
) -> Path:
    """Write the random checkpoint called `name` with the tiny tokenizer; biases and norms are random as well."""
    torch.manual_seed(0)
    values = {**SMALL, **ALL_SHAPES[name], **changes}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
    randomize(model, bias=0.5)
    with torch.no_grad():
        for key, buffer in model.named_buffers():
            if key.endswith("e_score_correction_bias"):
                buffer.normal_(0, 0.2)
    model.to(dtype).save_pretrained(out, max_shard_size=shard_size)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (out / file).write_bytes((tiny_checkpoint("qwen3") / file).read_bytes())
    return out


def original(path: Path) -> torch.nn.Module:
    """The checkpoint in transformers, float32, eager attention."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def reference_logits(model: torch.nn.Module, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Logits float32 [B, S, V] of a whole batch at once; positions count the ones of `mask`."""
    mask = np.ones_like(ids) if mask is None else mask
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    with torch.no_grad():
        return model(
            torch.tensor(ids), attention_mask=torch.tensor(mask), position_ids=torch.tensor(positions), use_cache=False
        ).logits.numpy()
