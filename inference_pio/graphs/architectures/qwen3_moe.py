"""Qwen3-MoE (Qwen3-30B-A3B, Qwen3-Coder-30B-A3B): the attention of Qwen3, and experts chosen by a softmax router.

Reference: Qwen3 Technical Report (arXiv:2505.09388) and `transformers.models.qwen3_moe`.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from inference_pio.checkpoint.config import ConfigReader
from inference_pio.graphs.architectures._config import (
    MAX_EXPERTS,
    MAX_WIDTH,
    read_gqa_decoder,
    read_layers,
    read_window,
)
from inference_pio.graphs.architectures._decoder import build_decoder
from inference_pio.graphs.blocks.attention_gqa import attention_gqa
from inference_pio.graphs.blocks.moe import moe
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec, ExpertsSpec, Scoring


def read_config(config: ConfigReader) -> DecoderSpec:
    """The decoder that a `qwen3_moe` config.json describes; raises BadInputError for anything it cannot express."""
    bias = config.optional_bool("attention_bias", False)
    layers = read_layers(config)
    window = read_window(config)
    if not config.optional_bool("use_sliding_window", False):
        window = None
    config.ignore("max_window_layers")  # every layer slides, or none
    config.expect("use_qk_norm", True)
    config.expect("qkv_bias", False)
    config.expect("shared_expert_intermediate_size", 0)
    dense = read_gqa_decoder(
        config,
        "qwen3_moe",
        theta=10_000.0,
        windows=(window,) * layers,
        qk_norm=True,
        qkv_bias=bias,
        output_bias=bias,
    )
    return replace(
        dense,
        moe=_read_experts(config),
        sparse=_sparse_layers(config, layers),
        sensitive_tensors=("model.layers.0.self_attn.*_proj.weight",),
    )


def _read_experts(config: ConfigReader) -> ExpertsSpec:
    config.first_of("num_experts", "num_local_experts")
    name = "num_experts" if "num_experts" in config.values else "num_local_experts"
    count = config.need_int(name, maximum=MAX_EXPERTS)
    return ExpertsSpec(
        count=count,
        active=config.need_int("num_experts_per_tok", maximum=count),
        width=config.need_int("moe_intermediate_size", maximum=MAX_WIDTH),
        scoring=Scoring.SOFTMAX,
        normalize=config.optional_bool("norm_topk_prob", False),
    )


def _sparse_layers(config: ConfigReader, layers: int) -> tuple[bool, ...]:
    step = config.optional_int("decoder_sparse_step", 1)
    dense = set(config.optional_list("mlp_only_layers", int) or ())
    return tuple(layer not in dense and (layer + 1) % step == 0 for layer in range(layers))


def build(spec: DecoderSpec, source: WeightSource) -> ir.Model:
    """The canonical graph."""
    source.declare_unused("model.layers.*.self_attn.rotary_emb.inv_freq", "recomputed from config.json")
    return build_decoder(spec, source, attention_gqa, moe)
