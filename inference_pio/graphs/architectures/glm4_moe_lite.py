"""GLM-4 MoE Lite (GLM-4.7-Flash): latent attention, one or more dense layers, then experts behind a sigmoid router.

Reference: `transformers.models.glm4_moe_lite`; the attention is that of DeepSeek-V2 (arXiv:2405.04434), the router that
of DeepSeek-V3 (arXiv:2412.19437) without groups.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from inference_pio.checkpoint.config import ConfigReader
from inference_pio.errors import BadInputError
from inference_pio.graphs.architectures._config import (
    MAX_EXPERTS,
    MAX_FACTOR,
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_WIDTH,
    read_layers,
    read_rope,
)
from inference_pio.graphs.architectures._decoder import build_decoder
from inference_pio.graphs.blocks.attention_mla import attention_mla
from inference_pio.graphs.blocks.moe import moe
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec, ExpertsSpec, MlaSpec, Scoring

LATENT_NORM_EPSILON = 1e-6
"""The norms of the two latents have the class's own epsilon, not `rms_norm_eps`."""


def read_config(config: ConfigReader) -> DecoderSpec:
    """The decoder that a `glm4_moe_lite` config.json describes; raises BadInputError for what it cannot express."""
    layers, hidden = read_layers(config), config.need_int("hidden_size", maximum=MAX_WIDTH)
    heads = config.need_int("num_attention_heads", maximum=MAX_HEADS)
    config.expect("num_key_value_heads", heads)
    config.expect("hidden_act", "silu")
    bias = config.optional_bool("attention_bias", False)
    mtp = config.optional_int("num_nextn_predict_layers", 0, minimum=0, maximum=MAX_LAYERS)
    rope_dim = config.need_int("qk_rope_head_dim", maximum=MAX_HEAD_DIM)
    config.expect("head_dim", rope_dim)
    rope, context_length = read_rope(config, rope_dim, default_theta=10_000.0)
    mla = _read_mla(config, rope_dim)
    return DecoderSpec(
        model_type="glm4_moe_lite",
        vocab_size=config.need_int("vocab_size", maximum=MAX_WIDTH),
        hidden_size=hidden,
        intermediate_size=config.need_int("intermediate_size", maximum=MAX_WIDTH),
        heads=heads,
        kv_heads=1,
        head_dim=mla.kv_rank + rope_dim,
        norm_epsilon=config.need_float("rms_norm_eps", minimum=1e-12, maximum=0.1),
        rope=rope,
        windows=(None,) * layers,
        context_length=context_length,
        tied_embeddings=config.optional_bool("tie_word_embeddings", False),
        qk_norm=False,
        qkv_bias=bias,
        output_bias=bias,
        moe=_read_experts(config),
        sparse=_sparse_layers(config, layers),
        mla=mla,
        unused_tensors=tuple(f"model.layers.{layer}.*" for layer in range(layers, layers + mtp)),
    )


def _read_mla(config: ConfigReader, rope_dim: int) -> MlaSpec:
    nope_dim = config.need_int("qk_nope_head_dim", maximum=MAX_HEAD_DIM)
    config.expect("qk_head_dim", nope_dim + rope_dim)
    return MlaSpec(
        q_rank=config.optional_int("q_lora_rank", None, maximum=MAX_WIDTH),
        kv_rank=config.need_int("kv_lora_rank", maximum=MAX_WIDTH),
        nope_dim=nope_dim,
        rope_dim=rope_dim,
        value_dim=config.need_int("v_head_dim", maximum=MAX_HEAD_DIM),
        scale=(nope_dim + rope_dim) ** -0.5 * _yarn_factor(config) ** 2,
        norm_epsilon=LATENT_NORM_EPSILON,
        interleaved=config.optional_bool("rope_interleave", True),
    )


def _yarn_factor(config: ConfigReader) -> float:
    """What yarn with `mscale_all_dim` multiplies queries and keys by, besides its factor on cos and sin."""
    section = config.section("rope_scaling") or config.section("rope_parameters")
    weight = section.optional_float("mscale_all_dim", None) if section else None
    if section is None or not weight:
        return 1.0
    factor = section.need_float("factor", minimum=1.0, maximum=MAX_FACTOR)
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _read_experts(config: ConfigReader) -> ExpertsSpec:
    for key, only in {"n_group": 1, "topk_group": 1, "moe_layer_freq": 1}.items():
        config.expect(key, only)
    config.expect("topk_method", "noaux_tc")
    config.expect("scoring_func", "sigmoid")
    config.first_of("n_routed_experts", "num_local_experts")
    name = "n_routed_experts" if "n_routed_experts" in config.values else "num_local_experts"
    count = config.need_int(name, minimum=2, maximum=MAX_EXPERTS)
    width = config.need_int("moe_intermediate_size", maximum=MAX_WIDTH)
    return ExpertsSpec(
        count=count,
        active=config.need_int("num_experts_per_tok", maximum=count),
        width=width,
        scoring=Scoring.SIGMOID,
        normalize=config.optional_bool("norm_topk_prob", True),
        scale=config.need_float("routed_scaling_factor", exclusive_minimum=0.0),
        shared_width=width * config.need_int("n_shared_experts", maximum=MAX_EXPERTS),
    )


def _sparse_layers(config: ConfigReader, layers: int) -> tuple[bool, ...]:
    """Which layers have experts: what `mlp_layer_types` says, else all but the first.

    The original reads nothing else: a `first_k_dense_replace` beside it has no effect, and alone it must be 1.
    """
    kinds = config.optional_list("mlp_layer_types", str)
    if kinds is None:
        config.expect("first_k_dense_replace", 1)
        return tuple(layer > 0 for layer in range(layers))
    config.ignore("first_k_dense_replace")
    unknown = sorted(set(kinds) - {"dense", "sparse"})
    if unknown:
        raise BadInputError(f"config.json: layer type '{unknown[0]}' in mlp_layer_types is not supported")
    if len(kinds) != layers:
        raise BadInputError(f"config.json: mlp_layer_types has {len(kinds)} entries for {layers} layers")
    return tuple(kind == "sparse" for kind in kinds)


def build(spec: DecoderSpec, source: WeightSource) -> ir.Model:
    """The canonical graph."""
    source.declare_unused("model.layers.*.self_attn.rotary_emb.inv_freq", "recomputed from config.json")
    for pattern in spec.unused_tensors:
        source.declare_unused(pattern, "a layer that predicts further tokens, which the decoder has no use for")
    return build_decoder(spec, source, attention_mla, moe)
