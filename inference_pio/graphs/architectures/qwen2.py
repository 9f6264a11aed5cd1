"""Qwen2 and Qwen2.5, dense: grouped-query attention with biases on query, key and value, SwiGLU.

Reference: Qwen2 Technical Report (arXiv:2407.10671) and `transformers.models.qwen2`.
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
    """The decoder that a `qwen2` config.json describes; raises BadInputError for anything it cannot express."""
    windows = read_layer_windows(config, read_layers(config))
    return read_gqa_decoder(
        config, "qwen2", theta=10_000.0, windows=windows, qk_norm=False, qkv_bias=True, output_bias=False, kv_heads=32
    )


def build(spec: DecoderSpec, source: WeightSource) -> ir.Model:
    """The canonical graph."""
    source.declare_unused("model.layers.*.self_attn.rotary_emb.inv_freq", "recomputed from config.json")
    return build_decoder(spec, source, attention_gqa, swiglu)
