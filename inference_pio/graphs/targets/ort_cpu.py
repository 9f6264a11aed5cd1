"""ONNX Runtime on a CPU: fused attention over one shared cache buffer, fused experts, blockwise integer products."""

from __future__ import annotations

from inference_pio.graphs.builder import OPSET
from inference_pio.graphs.rewrites import (
    embedding_kernels,
    expert_kernels,
    group_query_attention,
    head_products,
    int8_cache,
    integer_kernels,
    keep_logits,
    latent_attention,
    linear_kernels,
    multi_head_attention,
    pack_gate_up,
    pack_latents,
    pack_qkv,
    skip_norm,
)
from inference_pio.graphs.targets.target import Attention, Step, Target

TARGETS = (
    Target(
        name="ort-cpu",
        opset=OPSET,
        requires=(("onnxruntime", "1.31"),),
        steps=(
            Step(keep_logits, required=True),
            Step(pack_qkv, attention=Attention.GROUPED),
            Step(pack_latents, attention=Attention.LATENT),
            Step(pack_gate_up),
            Step(group_query_attention, required=True, attention=Attention.GROUPED),
            Step(int8_cache, attention=Attention.GROUPED),
            Step(latent_attention, required=True, attention=Attention.LATENT),
            Step(head_products, required=True, attention=Attention.LATENT),
            Step(skip_norm, required=True),
            Step(expert_kernels),
            Step(integer_kernels),
            Step(linear_kernels, required=True),
            Step(embedding_kernels),
        ),
        vision_steps=(
            Step(multi_head_attention, required=True),
            Step(linear_kernels, required=True),
        ),
        padding="right",
        compact_cache=True,
        shared_cache_buffer=True,
        genai=True,
    ),
)
