"""TensorRT. Dialect `trt85`: what the parser of TensorRT 8.5 reads, the last line that serves sm61; `modern`: 10.15 on.

`trt85` has operators of opset 17 at most, with attention, norms and rotary embedding taken apart. `modern` keeps norms
and attention as operators, and writes the cache in place. Both have explicit quantization and one file per
block of layers. docs/tensorrt.md has the interface of a block. `modern` computes its products in float16 where the
recipe says so.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from inference_pio.graphs.blocks_of_layers import BLOCK_IR_VERSION, BLOCK_OPSET, cut_blocks
from inference_pio.graphs.builder import IR_VERSION, OPSET
from inference_pio.graphs.rewrites import (
    activation_parts,
    experts_apart,
    grouped_attention_parts,
    half_products,
    head_convolution,
    host_embedding,
    host_rotary,
    int32_inputs,
    latent_attention_parts,
    layer_norm_parts,
    pack_gate_up,
    pack_latents,
    pack_qkv,
    reduction_axes,
    rms_norm_parts,
    rotary_parts,
    scattered_attention,
    static_head_products,
    static_products,
    vision_attention_heads,
    vision_attention_parts,
)
from inference_pio.graphs.targets.target import Attention, Step, Target

TRT85 = Target(
    name="tensorrt",
    dialect="trt85",
    opset=BLOCK_OPSET,
    ir_version=BLOCK_IR_VERSION,
    requires=(("tensorrt", "8.5"),),
    steps=(
        Step(host_embedding, required=True),
        Step(experts_apart),
        Step(host_rotary, required=True),
        Step(grouped_attention_parts, required=True, attention=Attention.GROUPED),
        Step(latent_attention_parts, required=True, attention=Attention.LATENT),
        Step(rotary_parts, required=True),
        Step(head_convolution, required=True),
        Step(static_head_products, attention=Attention.LATENT),
        Step(static_products),
        Step(rms_norm_parts, required=True),
        Step(activation_parts),
    ),
    vision_steps=(
        Step(int32_inputs, required=True),
        Step(vision_attention_parts, required=True),
        Step(rotary_parts, required=True),
        Step(static_products),
        Step(layer_norm_parts, required=True),
        Step(activation_parts, required=True),
    ),
    padding="right",
    compact_cache=True,
    shared_cache_buffer=False,
    kv_caches=("fp32",),
    cut=cut_blocks,
)
MODERN = replace(
    TRT85,
    dialect="modern",
    opset=OPSET,
    ir_version=IR_VERSION,
    requires=(("tensorrt", "10.15"),),
    steps=(
        Step(host_embedding, required=True),
        Step(experts_apart),
        Step(host_rotary, required=True),
        Step(pack_qkv, attention=Attention.GROUPED, half=True),
        Step(pack_latents, attention=Attention.LATENT, half=True),
        Step(pack_gate_up, half=True),
        Step(scattered_attention, required=True),
        Step(rotary_parts, required=True),
        Step(head_convolution, required=True),
        Step(static_head_products, attention=Attention.LATENT),
        Step(static_products),
        Step(activation_parts),
        Step(reduction_axes),
        Step(half_products, required=True, half=True),
    ),
    vision_steps=(
        Step(int32_inputs, required=True),
        Step(vision_attention_heads, required=True, half=True),
        Step(vision_attention_parts, required=True, half=False),
        Step(rotary_parts, required=True),
        Step(static_products),
        Step(layer_norm_parts, required=True),
        Step(activation_parts, required=True),
        Step(reduction_axes, required=True),
        Step(half_products, required=True, half=True),
    ),
    default_context=4096,
    kv_caches=("fp16", "fp32"),
    cut=partial(cut_blocks, opset=OPSET, ir_version=IR_VERSION),
)
TARGETS = (TRT85, MODERN)
