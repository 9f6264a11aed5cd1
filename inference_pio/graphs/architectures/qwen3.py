"""Qwen3, dense: grouped-query attention with RMS norms on query and key heads, SwiGLU.

Reference: Qwen3 Technical Report (arXiv:2505.09388) and `transformers.models.qwen3`.
"""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.checkpoint.config import ConfigReader
from inference_pio.graphs.architectures._config import MAX_WIDTH, read_heads, read_layer_windows, read_layers, read_rope
from inference_pio.graphs.architectures._decoder import build_decoder
from inference_pio.graphs.blocks.attention_gqa import attention_gqa
from inference_pio.graphs.blocks.mlp import swiglu
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec


def read_config(config: ConfigReader) -> DecoderSpec:
    """The decoder that a `qwen3` config.json describes; raises BadInputError for anything it cannot express."""
    hidden = config.need_int("hidden_size", maximum=MAX_WIDTH)
    heads, kv_heads, head_dim = read_heads(config, hidden)
    config.expect("hidden_act", "silu")
    attention_bias = config.optional_bool("attention_bias", False)
    rope, context_length = read_rope(config, head_dim, default_theta=10_000.0)
    return DecoderSpec(
        model_type="qwen3",
        vocab_size=config.need_int("vocab_size", maximum=MAX_WIDTH),
        hidden_size=hidden,
        intermediate_size=config.need_int("intermediate_size", maximum=MAX_WIDTH),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm_epsilon=config.need_float("rms_norm_eps", minimum=1e-12, maximum=0.1),
        rope=rope,
        windows=read_layer_windows(config, read_layers(config)),
        context_length=context_length,
        tied_embeddings=config.optional_bool("tie_word_embeddings", False),
        qk_norm=True,
        qkv_bias=attention_bias,
        output_bias=attention_bias,
    )


def build(spec: DecoderSpec, source: WeightSource) -> ir.Model:
    """The canonical graph."""
    source.declare_unused("model.layers.*.self_attn.rotary_emb.inv_freq", "recomputed from config.json")
    return build_decoder(spec, source, attention_gqa, swiglu)
