"""Mistral 7B and Nemo: the form of Llama, with one attention window for every layer or none.

Reference: Mistral 7B (arXiv:2310.06825) and `transformers.models.mistral`.
"""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.checkpoint.config import ConfigReader
from inference_pio.graphs.architectures._config import read_gqa_decoder, read_layers, read_window
from inference_pio.graphs.architectures._decoder import build_decoder
from inference_pio.graphs.blocks.attention_gqa import attention_gqa
from inference_pio.graphs.blocks.mlp import swiglu
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec


def read_config(config: ConfigReader) -> DecoderSpec:
    """The decoder that a `mistral` config.json describes; raises BadInputError for anything it cannot express."""
    windows = (read_window(config),) * read_layers(config)
    return read_gqa_decoder(
        config, "mistral", theta=10_000.0, windows=windows, qk_norm=False, qkv_bias=False, output_bias=False, kv_heads=8
    )


def build(spec: DecoderSpec, source: WeightSource) -> ir.Model:
    """The canonical graph."""
    source.declare_unused("model.layers.*.self_attn.rotary_emb.inv_freq", "recomputed from config.json")
    return build_decoder(spec, source, attention_gqa, swiglu)
