"""Qwen3, dense: grouped-query attention with RMS norms on query and key heads, SwiGLU.

Reference: Qwen3 Technical Report (arXiv:2505.09388) and `transformers.models.qwen3`.
"""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.checkpoint.config import ConfigReader
from inference_pio.graphs.architectures._config import read_gqa_decoder, read_layer_windows, read_layers
from inference_pio.graphs.architectures._decoder import build_decoder
from inference_pio.graphs.blocks.attention_gqa import attention_gqa
from inference_pio.graphs.blocks.mlp import swiglu
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec


def read_config(config: ConfigReader) -> DecoderSpec:
    """The decoder that a `qwen3` config.json describes; raises BadInputError for anything it cannot express."""
    bias = config.optional_bool("attention_bias", False)
    windows = read_layer_windows(config, read_layers(config))
    return read_gqa_decoder(
        config, "qwen3", theta=10_000.0, windows=windows, qk_norm=True, qkv_bias=bias, output_bias=bias
    )


def build(spec: DecoderSpec, source: WeightSource) -> ir.Model:
    """The canonical graph."""
    source.declare_unused("model.layers.*.self_attn.rotary_emb.inv_freq", "recomputed from config.json")
    return build_decoder(spec, source, attention_gqa, swiglu)
