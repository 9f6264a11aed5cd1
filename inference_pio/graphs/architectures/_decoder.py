"""The decoder skeleton: embedding, pre-norm residual layers, final norm, head. Architectures pass the blocks."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from inference_pio.graphs.blocks.attention_gqa import AttentionInputs, attention_mask
from inference_pio.graphs.blocks.image_tokens import image_inputs
from inference_pio.graphs.blocks.linear import embedding, linear, matmul_transposed
from inference_pio.graphs.blocks.norm import rms_norm
from inference_pio.graphs.blocks.rope import rotary_angles
from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec

AttentionBlock = Callable[[GraphBuilder, WeightSource, DecoderSpec, ir.Value, str, int, AttentionInputs], ir.Value]
MlpBlock = Callable[[GraphBuilder, WeightSource, DecoderSpec, ir.Value, str, int], ir.Value]


def build_decoder(spec: DecoderSpec, source: WeightSource, attention: AttentionBlock, mlp: MlpBlock) -> ir.Model:
    """The canonical graph of a decoder.

    Inputs `input_ids`, `attention_mask`, `position_ids` (int64; [3, B, S] where the rotary embedding has sections) and
    `past_key_values.N.key|value` (float32 [B, G, P, D]), and those of `image_inputs` where there is a vision tower;
    outputs `logits` (float32 [B, S, V]) and `present.N.key|value` ([B, G, P + S, D]).
    """
    b = GraphBuilder()
    ids_BS = b.input("input_ids", ir.DataType.INT64, ["batch", "sequence_length"])
    mask_BT = b.input("attention_mask", ir.DataType.INT64, ["batch", "total_length"])
    streams = [] if spec.rope.sections is None else [len(spec.rope.sections)]
    positions = b.input("position_ids", ir.DataType.INT64, [*streams, "batch", "sequence_length"])
    shared = AttentionInputs(
        angles=rotary_angles(b, spec.rope, positions),
        masks={window: attention_mask(b, mask_BT, ids_BS, window) for window in dict.fromkeys(spec.windows)},
    )
    table = f"{spec.prefix}.embed_tokens"
    x_BSC = embedding(b, source, ids_BS, table, (spec.vocab_size, spec.hidden_size))
    images = image_inputs(b, spec)
    x_BSC = images.insert(b, x_BSC)
    for layer in range(spec.layers):
        prefix = f"{spec.prefix}.layers.{layer}"
        with b.scope(f"layers.{layer}"):
            x_BSC = _layer(b, source, spec, x_BSC, prefix, layer, shared, attention, mlp, images.addends.get(layer))
    with b.scope("head"):
        x_BSC = rms_norm(b, source, x_BSC, f"{spec.prefix}.norm", spec.hidden_size, spec.norm_epsilon)
        if spec.tied_embeddings:
            source.declare_copy("lm_head.weight", f"{table}.weight")
            logits_BSV = matmul_transposed(b, x_BSC, b.graph.initializers[f"{table}.weight"])
        else:
            logits_BSV = linear(b, source, x_BSC, "lm_head", (spec.vocab_size, spec.hidden_size))
    b.output(logits_BSV, "logits", ir.DataType.FLOAT, ["batch", "sequence_length", spec.vocab_size])
    b.graph.outputs.insert(0, b.graph.outputs.pop())
    source.close()
    return b.model()


def _layer(
    b: GraphBuilder,
    source: WeightSource,
    spec: DecoderSpec,
    x_BSC: ir.Value,
    prefix: str,
    layer: int,
    shared: AttentionInputs,
    attention: AttentionBlock,
    mlp: MlpBlock,
    addend: ir.Value | None,
) -> ir.Value:
    with b.scope("attention"):
        name = f"{prefix}.input_layernorm"
        normed = rms_norm(b, source, x_BSC, name, spec.hidden_size, spec.norm_epsilon)
        attended = attention(b, source, spec, normed, f"{prefix}.self_attn", layer, shared)
        x_BSC = b.op("Add", [x_BSC, attended], name="residual")
    with b.scope("mlp"):
        name = f"{prefix}.post_attention_layernorm"
        normed = rms_norm(b, source, x_BSC, name, spec.hidden_size, spec.norm_epsilon)
        inner = mlp(b, source, spec, normed, f"{prefix}.mlp", layer)
        if addend is not None:
            inner = b.op("Add", [inner, addend], name="deepstack")
        return b.op("Add", [x_BSC, inner], name="residual")
