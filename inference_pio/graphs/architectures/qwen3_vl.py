"""Qwen3-VL: a vision tower, and the decoder of Qwen3 with three positions per token and features added by DeepStack.

Reference: Qwen3-VL Technical Report (arXiv:2511.21631) and `transformers.models.qwen3_vl`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import onnx_ir as ir

from inference_pio.checkpoint.config import ConfigReader
from inference_pio.errors import BadInputError
from inference_pio.graphs.architectures._config import (
    MAX_HEADS,
    MAX_LAYERS,
    MAX_WIDTH,
    read_gqa_decoder,
    read_layers,
)
from inference_pio.graphs.architectures._decoder import build_decoder
from inference_pio.graphs.architectures._vision import build_vision_tower
from inference_pio.graphs.blocks.attention_gqa import attention_gqa
from inference_pio.graphs.blocks.mlp import swiglu
from inference_pio.graphs.blocks.rope import default_frequencies
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec, VisionSpec

VISION, TEXT = "model.visual", "model.language_model"
DEFAULT_SECTIONS = [24, 20, 20]
"""Of the three positions, where the configuration names none."""
MAX_PATCH = 1024


def read_config(config: ConfigReader) -> DecoderSpec:
    """The decoder and vision tower that a `qwen3_vl` config.json describes; raises BadInputError for all others."""
    text = _need_section(config, "text_config")
    text.expect("model_type", "qwen3_vl_text")
    bias = text.optional_bool("attention_bias", False)
    rope = text.section("rope_scaling") or text.section("rope_parameters")
    sections = DEFAULT_SECTIONS
    if rope is not None:
        rope.expect("mrope_interleaved", True)
        sections = rope.optional_list("mrope_section", int, length=3) or DEFAULT_SECTIONS
    if min(sections) < 0:
        raise BadInputError(f"config.json: mrope_section is {sections}; none of the three may be negative")
    decoder = read_gqa_decoder(
        text,
        "qwen3_vl",
        theta=500_000.0,
        windows=(None,) * read_layers(text),
        qk_norm=True,
        qkv_bias=bias,
        output_bias=bias,
    )
    text.finish()
    vision = _read_vision(config, decoder.hidden_size, decoder.vocab_size)
    return replace(
        decoder,
        rope=replace(decoder.rope, sections=tuple(sections)),
        tied_embeddings=_tied(config, text),
        prefix=TEXT,
        vision=vision,
        # The tower is a fifth of the model and its features reach every answer: it is never rounded below 8 bits, and
        # its first step, over raw pixels, not at all.
        edge_tensors=(f"{TEXT}.embed_tokens.weight", "lm_head.weight", *_rounded_vision_tensors(vision)),
        float_tensors=(f"{VISION}.pos_embed.weight", f"{VISION}.patch_embed.*"),
    )


def _need_section(config: ConfigReader, name: str) -> ConfigReader:
    section = config.section(name)
    if section is None:
        raise BadInputError(f"config.json: {name} is missing")
    return section


def _tied(config: ConfigReader, text: ConfigReader) -> bool:
    """Whether the token table is the head; both levels of the configuration may say so, and must agree."""
    said = [c.optional_bool("tie_word_embeddings", False) for c in (config, text) if "tie_word_embeddings" in c.values]
    if len(set(said)) > 1:
        raise BadInputError(
            f"config.json: tie_word_embeddings is {said[0]} but in text_config {said[1]}; remove the wrong one"
        )
    return bool(said) and said[0]


def _read_vision(config: ConfigReader, out: int, vocabulary: int) -> VisionSpec:
    vision = _need_section(config, "vision_config")
    vision.expect("model_type", "qwen3_vl", "qwen3_vl_vision")
    vision.expect("hidden_act", "gelu_pytorch_tanh")
    vision.expect("out_hidden_size", out)
    hidden, heads = vision.need_int("hidden_size", maximum=MAX_WIDTH), vision.need_int("num_heads", maximum=MAX_HEADS)
    if hidden % (4 * heads):
        raise BadInputError(
            f"config.json: vision_config: {heads} heads of hidden_size {hidden} cannot be turned by row and column: "
            "the size of a head must be a multiple of 4"
        )
    depth = vision.need_int("depth", maximum=MAX_LAYERS)
    spec = VisionSpec(
        depth=depth,
        hidden_size=hidden,
        intermediate_size=vision.need_int("intermediate_size", maximum=MAX_WIDTH),
        heads=heads,
        channels=vision.optional_int("in_channels", 3, minimum=3, maximum=3),
        patch_size=vision.need_int("patch_size", maximum=MAX_PATCH),
        temporal_patch_size=vision.need_int("temporal_patch_size", maximum=MAX_PATCH),
        merge_size=vision.need_int("spatial_merge_size", maximum=MAX_PATCH),
        position_side=_side(vision.need_int("num_position_embeddings", maximum=MAX_WIDTH)),
        inverse_frequencies=_frequencies(vision, hidden // heads),
        deepstack=_deepstack(vision, depth),
        **{
            f"{name}_token_id": config.need_int(f"{name}_token_id", minimum=0, maximum=vocabulary - 1)
            for name in ("image", "video", "vision_start", "vision_end")
        },
    )
    vision.finish()
    return spec


def _side(positions: int) -> int:
    side = math.isqrt(positions)
    if side * side != positions:
        raise BadInputError(f"config.json: vision_config: num_position_embeddings {positions} is not a square")
    return side


def _deepstack(vision: ConfigReader, depth: int) -> tuple[int, ...]:
    layers = vision.optional_list("deepstack_visual_indexes", int)
    if layers is None:
        raise BadInputError("config.json: vision_config: deepstack_visual_indexes is missing")
    if layers != sorted(set(layers)) or not all(0 <= layer < depth for layer in layers):
        raise BadInputError(
            f"config.json: vision_config: deepstack_visual_indexes {layers} must rise and lie within 0 to {depth - 1}"
        )
    return tuple(layers)


def _frequencies(vision: ConfigReader, head_dim: int) -> tuple[float, ...]:
    """Of one axis: half of a head turns by row, half by column."""
    rope, theta = vision.section("rope_parameters"), 10_000.0
    if rope is not None:
        rope.expect("rope_type", "axial")
        theta = rope.optional_float("rope_theta", theta, exclusive_minimum=1.0)
        rope.finish()
    return tuple(float(f) for f in default_frequencies(head_dim // 2, theta))


def _rounded_vision_tensors(vision: VisionSpec) -> tuple[str, ...]:
    blocks = [
        f"{VISION}.blocks.{layer}.{part}.weight"
        for layer in range(vision.depth)
        for part in ("attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2")
    ]
    mergers = [f"{VISION}.merger", *(f"{VISION}.deepstack_merger_list.{i}" for i in range(len(vision.deepstack)))]
    return (*blocks, *(f"{merger}.{part}.weight" for merger in mergers for part in ("linear_fc1", "linear_fc2")))


def build_vision(spec: DecoderSpec, source: WeightSource) -> ir.Model:
    """The canonical graph of the vision tower; comes before `build`, which ends the account of tensors."""
    assert spec.vision is not None  # every qwen3_vl has one
    return build_vision_tower(spec.vision, source, VISION, spec.hidden_size)


def build(spec: DecoderSpec, source: WeightSource) -> ir.Model:
    """The canonical graph of the decoder."""
    source.declare_unused(f"{TEXT}.layers.*.self_attn.rotary_emb.inv_freq", "recomputed from config.json")
    return build_decoder(spec, source, attention_gqa, swiglu)
