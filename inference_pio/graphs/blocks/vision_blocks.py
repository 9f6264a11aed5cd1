"""The blocks of a vision tower: attention among the patches of one image or frame, an MLP, and patch mergers.

Images of one run have the same size and lie along the batch axis, so nothing has to be masked.
"""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.graphs.blocks.linear import linear
from inference_pio.graphs.blocks.norm import layer_norm
from inference_pio.graphs.blocks.rope import rotate
from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import VisionSpec

EPSILON = 1e-6
"""Of all layer norms; no configuration names it."""


def vision_block(
    b: GraphBuilder,
    source: WeightSource,
    spec: VisionSpec,
    x_IPC: ir.Value,
    prefix: str,
    angles: tuple[ir.Value, ir.Value],
) -> ir.Value:
    """One pre-norm residual block -> [I, P, C]."""
    with b.scope("attention"):
        normed = layer_norm(b, source, x_IPC, f"{prefix}.norm1", spec.hidden_size, EPSILON)
        attended = vision_attention(b, source, spec, normed, f"{prefix}.attn", angles)
        x_IPC = b.op("Add", [x_IPC, attended], name="residual")
    with b.scope("mlp"):
        normed = layer_norm(b, source, x_IPC, f"{prefix}.norm2", spec.hidden_size, EPSILON)
        wide, narrow = spec.intermediate_size, spec.hidden_size
        inner = linear(b, source, normed, f"{prefix}.mlp.linear_fc1", (wide, narrow), bias=True)
        inner = b.op("Gelu", [inner], {"approximate": "tanh"})
        inner = linear(b, source, inner, f"{prefix}.mlp.linear_fc2", (narrow, wide), bias=True)
        return b.op("Add", [x_IPC, inner], name="residual")


def vision_attention(
    b: GraphBuilder,
    source: WeightSource,
    spec: VisionSpec,
    x_IPC: ir.Value,
    prefix: str,
    angles: tuple[ir.Value, ir.Value],
) -> ir.Value:
    """Every patch attends to all of its image -> [I, P, C]; query, key and value come from one linear layer."""
    hidden, heads = spec.hidden_size, spec.heads
    packed = linear(b, source, x_IPC, f"{prefix}.qkv", (3 * hidden, hidden), bias=True)
    q, k, v = b.ops("Split", [packed, b.const([hidden] * 3)], {"axis": -1}, 3)
    q, k = rotate(b, q, angles, heads), rotate(b, k, angles, heads)
    attributes = {"q_num_heads": heads, "kv_num_heads": heads, "scale": (hidden // heads) ** -0.5, "is_causal": 0}
    y_IPC = b.op("Attention", [q, k, v], attributes)
    return linear(b, source, y_IPC, f"{prefix}.proj", (hidden, hidden), bias=True)


def patch_merger(
    b: GraphBuilder, source: WeightSource, spec: VisionSpec, x_IPC: ir.Value, prefix: str, out: int, norm_merged: bool
) -> ir.Value:
    """The patches of a token, which lie behind each other, become one vector -> [I, M, out].

    The norm is over each patch, or with `norm_merged` over all of a token's patches together.
    """
    merged = spec.merged_size
    group = b.const([0, -1, merged])
    if norm_merged:
        x_IMQ = layer_norm(b, source, b.op("Reshape", [x_IPC, group]), f"{prefix}.norm", merged, EPSILON)
    else:
        x_IMQ = b.op("Reshape", [layer_norm(b, source, x_IPC, f"{prefix}.norm", spec.hidden_size, EPSILON), group])
    inner = linear(b, source, x_IMQ, f"{prefix}.linear_fc1", (merged, merged), bias=True)
    inner = b.op("Gelu", [inner], {"approximate": "none"})
    return linear(b, source, inner, f"{prefix}.linear_fc2", (out, merged), bias=True)
