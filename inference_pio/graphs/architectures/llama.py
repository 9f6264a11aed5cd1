"""Llama 1 to 3.3 and the many models that share its form: grouped-query attention without norms, SwiGLU.

Reference: Llama 2 (arXiv:2307.09288), The Llama 3 Herd of Models (arXiv:2407.21783) and `transformers.models.llama`.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from inference_pio.checkpoint.config import ConfigReader
from inference_pio.graphs.architectures._config import read_gqa_decoder, read_layers
from inference_pio.graphs.architectures._decoder import build_decoder
from inference_pio.graphs.blocks.attention_gqa import attention_gqa
from inference_pio.graphs.blocks.mlp import swiglu
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec


def read_config(config: ConfigReader) -> DecoderSpec:
    """The decoder that a `llama` config.json describes; raises BadInputError for anything it cannot express."""
    bias = config.optional_bool("attention_bias", False)
    config.ignore("is_llama_config")  # SmolLM's mark of its ancestry
    windows = (None,) * read_layers(config)
    decoder = read_gqa_decoder(
        config, "llama", theta=10_000.0, windows=windows, qk_norm=False, qkv_bias=bias, output_bias=bias
    )
    return replace(decoder, mlp_bias=config.optional_bool("mlp_bias", False))


def build(spec: DecoderSpec, source: WeightSource) -> ir.Model:
    """The canonical graph."""
    source.declare_unused("model.layers.*.self_attn.rotary_emb.inv_freq", "recomputed from config.json")
    return build_decoder(spec, source, attention_gqa, swiglu)
