"""ONNX Runtime on NVIDIA GPUs.

Dialect `sm61` is for Pascal, where onnxruntime-gpu 1.20.2 is the last with code for it: float32, no operator newer than
opset 21, no GroupQueryAttention (it has no float32 kernel there), blockwise products of 4 bits, 8 bits as integer
products.

Dialect `modern` is for Turing and newer with the onnxruntime-gpu of today: float16 or bfloat16, GroupQueryAttention
that also norms the heads, blocks of 4 and 8 bits, fused experts. In float32, which those kernels lack, it takes the
attention of the other dialect.
"""

from __future__ import annotations

from inference_pio.graphs.builder import OPSET
from inference_pio.graphs.rewrites import (
    cached_attention,
    candidates,
    embedding_kernels,
    expert_kernels,
    float_experts,
    fold_head_norms,
    group_query_attention,
    half_precision,
    head_products,
    integer_edges,
    integer_kernels,
    keep_logits,
    latent_attention,
    linear_kernels,
    multi_head_attention,
    pack_gate_up,
    pack_latents,
    pack_qkv,
    paged_latents,
    rotary_kernels,
    scatter_rows,
    silu_kernels,
    simple_norm,
    skip_norm,
)
from inference_pio.graphs.rewrites.rewrite import Kernels
from inference_pio.graphs.targets.target import Attention, Step, Target

SM61 = Target(
    name="ort-cuda",
    dialect="sm61",
    opset=21,
    ir_version=10,
    requires=(("onnxruntime", "1.20"),),
    kernels=Kernels(add_bias=False, fused_products=False, lookup_blocks=False),
    steps=(
        Step(keep_logits, required=True),
        Step(candidates, required=True),
        Step(pack_qkv, attention=Attention.GROUPED),
        Step(pack_latents, attention=Attention.LATENT),
        Step(pack_gate_up),
        Step(cached_attention, required=True, attention=Attention.GROUPED),
        Step(latent_attention, required=True, attention=Attention.LATENT),
        Step(scatter_rows, required=True, attention=Attention.LATENT),
        Step(head_products, required=True, attention=Attention.LATENT),
        Step(rotary_kernels, required=True),
        Step(skip_norm, required=True),
        Step(simple_norm, required=True),
        Step(silu_kernels),
        Step(float_experts),
        Step(integer_edges),
        Step(integer_kernels),
        Step(linear_kernels),
        Step(embedding_kernels),
    ),
    vision_steps=(
        Step(multi_head_attention, required=True),
        Step(rotary_kernels, required=True),
        Step(integer_kernels),
        Step(linear_kernels, required=True),
    ),
    kv_caches=("fp32",),
    padding="right",
    compact_cache=True,
    shared_cache_buffer=True,
)

MODERN = Target(
    name="ort-cuda",
    dialect="modern",
    opset=OPSET,
    requires=(("onnxruntime", "1.31"),),
    kernels=Kernels(add_bias=False, exact_bits=(4, 8), raw_experts=True),
    steps=(
        Step(keep_logits, required=True),
        Step(candidates, required=True),
        Step(pack_qkv, attention=Attention.GROUPED),
        Step(pack_latents, attention=Attention.LATENT),
        Step(pack_gate_up),
        Step(group_query_attention, required=True, attention=Attention.GROUPED, half=True),
        Step(fold_head_norms, attention=Attention.GROUPED, half=True),
        Step(cached_attention, required=True, attention=Attention.GROUPED, half=False),
        Step(paged_latents, required=True, attention=Attention.LATENT, half=True),
        Step(latent_attention, required=True, attention=Attention.LATENT, half=False),
        Step(scatter_rows, required=True, attention=Attention.LATENT, half=False),
        Step(head_products, required=True, attention=Attention.LATENT),
        Step(rotary_kernels),
        Step(skip_norm, required=True),
        Step(simple_norm, required=True),
        Step(silu_kernels),
        Step(expert_kernels),
        Step(linear_kernels, required=True),
        Step(embedding_kernels),
        Step(half_precision, required=True, half=True),
    ),
    vision_steps=SM61.vision_steps,
    kv_caches=("fp16", "bf16", "fp32"),
    padding="right",
    compact_cache=True,
    shared_cache_buffer=True,
)

TARGETS = (SM61, MODERN)
