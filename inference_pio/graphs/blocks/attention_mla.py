"""Multi-head latent attention (DeepSeek-V2, Liu et al. 2024, arXiv:2405.04434) over a cache of latents alone.

The absorbed form: instead of making keys and values of every cached latent, a query head is carried into the latent's
space, and what it attended to out of it. Keys and values are then the same tensor, the cached rows, for all heads.
"""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.graphs.blocks.attention_gqa import AttentionInputs
from inference_pio.graphs.blocks.linear import linear
from inference_pio.graphs.blocks.norm import rms_norm
from inference_pio.graphs.blocks.rope import rotate
from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec, MlaSpec


def attention_mla(
    b: GraphBuilder,
    source: WeightSource,
    spec: DecoderSpec,
    x_BSC: ir.Value,
    prefix: str,
    layer: int,
    shared: AttentionInputs,
) -> ir.Value:
    """Attention of one layer -> [B, S, C]; adds the layer's cache to the graph.

    The cache `past_key_values.N.latent` [B, 1, P, W] holds a token's latent after its norm and, behind it, the rotated
    part of its key; `present.N.latent` is [B, 1, P + S, W].
    """
    mla, heads = _mla(spec), spec.heads
    parts = {"key": mla.nope_dim, "value": mla.value_dim}
    up = source.heads(f"{prefix}.kv_b_proj.weight", heads, parts, mla.kv_rank)
    q_BHSW = _queries(b, source, spec, x_BSC, prefix, shared, b.weight(f"{prefix}.kv_b_proj.key", up["key"]))
    new_B1SW = _latents(b, source, spec, x_BSC, prefix, shared)

    cache: list[int | str] = ["batch", 1, "past_length", spec.head_dim]
    past_B1PW = b.input(f"past_key_values.{layer}.latent", ir.DataType.FLOAT, cache)
    present_B1TW = b.op("Concat", [past_B1PW, new_B1SW], {"axis": 2}, name="present")
    mask = shared.masks[spec.windows[layer]]
    y_BHSW = b.op("Attention", [q_BHSW, present_B1TW, present_B1TW, mask], {"scale": mla.scale, "is_causal": 0})
    b.output(present_B1TW, f"present.{layer}.latent", ir.DataType.FLOAT, ["batch", 1, "total_length", spec.head_dim])

    y_BHSL = b.op("Slice", [y_BHSW, b.const([0]), b.const([mla.kv_rank]), b.const([3])], name="latent")
    value_HNL = b.weight(f"{prefix}.kv_b_proj.value", up["value"])
    y_BHSN = b.op("MatMul", [y_BHSL, b.op("Transpose", [value_HNL], {"perm": [0, 2, 1]})], name="value")
    y_BSHN = b.op("Transpose", [y_BHSN], {"perm": [0, 2, 1, 3]})
    y_BSN = b.op("Reshape", [y_BSHN, b.const([0, 0, heads * mla.value_dim])])
    shape = (spec.hidden_size, heads * mla.value_dim)
    return linear(b, source, y_BSN, f"{prefix}.o_proj", shape, spec.output_bias)


def _queries(
    b: GraphBuilder,
    source: WeightSource,
    spec: DecoderSpec,
    x_BSC: ir.Value,
    prefix: str,
    shared: AttentionInputs,
    key_HUL: ir.Value,
) -> ir.Value:
    """Query heads in the space of cached rows: [B, H, S, W]."""
    mla, heads = _mla(spec), spec.heads
    width = mla.nope_dim + mla.rope_dim
    if mla.q_rank is None:
        q_BSN = linear(b, source, x_BSC, f"{prefix}.q_proj", (heads * width, spec.hidden_size))
    else:
        low = linear(b, source, x_BSC, f"{prefix}.q_a_proj", (mla.q_rank, spec.hidden_size), spec.qkv_bias)
        low = rms_norm(b, source, low, f"{prefix}.q_a_layernorm", mla.q_rank, mla.norm_epsilon)
        q_BSN = linear(b, source, low, f"{prefix}.q_b_proj", (heads * width, mla.q_rank))
    q_BSHD = b.op("Reshape", [q_BSN, b.const([0, 0, heads, width])])
    q_BHSD = b.op("Transpose", [q_BSHD], {"perm": [0, 2, 1, 3]}, name="query_heads")
    sizes = b.const([mla.nope_dim, mla.rope_dim])
    q_BHSU, q_BHSR = b.ops("Split", [q_BHSD, sizes], {"axis": -1}, 2, name="query_parts")
    absorbed_BHSL = b.op("MatMul", [q_BHSU, key_HUL], name="absorb")
    rotated_BHSR = rotate(b, q_BHSR, shared.angles, heads, mla.interleaved)
    return b.op("Concat", [absorbed_BHSL, rotated_BHSR], {"axis": -1}, name="query")


def _latents(
    b: GraphBuilder,
    source: WeightSource,
    spec: DecoderSpec,
    x_BSC: ir.Value,
    prefix: str,
    shared: AttentionInputs,
) -> ir.Value:
    """What the new tokens add to the cache: [B, 1, S, W]."""
    mla, name = _mla(spec), f"{prefix}.kv_a_proj_with_mqa"
    both_BSW = linear(b, source, x_BSC, name, (mla.kv_rank + mla.rope_dim, spec.hidden_size), spec.qkv_bias)
    sizes = b.const([mla.kv_rank, mla.rope_dim])
    low_BSL, k_BSR = b.ops("Split", [both_BSW, sizes], {"axis": -1}, 2, name="latent_parts")
    low_BSL = rms_norm(b, source, low_BSL, f"{prefix}.kv_a_layernorm", mla.kv_rank, mla.norm_epsilon)
    k_BSR = rotate(b, k_BSR, shared.angles, 1, mla.interleaved)
    new_BSW = b.op("Concat", [low_BSL, k_BSR], {"axis": -1}, name="new")
    return b.op("Unsqueeze", [new_BSW, b.const([1])])


def _mla(spec: DecoderSpec) -> MlaSpec:
    assert spec.mla is not None  # the architecture chose this block
    return spec.mla
