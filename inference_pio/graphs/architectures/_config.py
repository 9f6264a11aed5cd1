"""Reading the parts of config.json that decoders share: sizes, rotary embedding and layer types."""

from __future__ import annotations

import numpy as np

from inference_pio.checkpoint.config import ConfigReader
from inference_pio.errors import BadInputError
from inference_pio.graphs.blocks.rope import (
    RopeSpec,
    Yarn,
    default_frequencies,
    linear_frequencies,
    llama3_frequencies,
)
from inference_pio.graphs.spec import DecoderSpec

MAX_FACTOR = 1024.0
MAX_LAYERS, MAX_HEADS, MAX_HEAD_DIM, MAX_WIDTH, MAX_POSITIONS = 1024, 1024, 4096, 1 << 24, 1 << 27
MAX_EXPERTS = 4096
"""Far beyond every published model; larger numbers are damage, and would only be noticed by running out of memory."""


def read_gqa_decoder(
    config: ConfigReader,
    model_type: str,
    *,
    theta: float,
    windows: tuple[int | None, ...],
    qk_norm: bool,
    qkv_bias: bool,
    output_bias: bool,
    kv_heads: int | None = None,
) -> DecoderSpec:
    """A dense decoder with grouped-query attention and SwiGLU; the arguments say what architectures differ in.

    `kv_heads` counts where the config does not mention `num_key_value_heads` at all.
    """
    hidden = config.need_int("hidden_size", maximum=MAX_WIDTH)
    heads, kv_heads, head_dim = read_heads(config, hidden, kv_heads)
    config.expect("hidden_act", "silu")
    rope, context_length = read_rope(config, head_dim, default_theta=theta)
    return DecoderSpec(
        model_type=model_type,
        vocab_size=config.need_int("vocab_size", maximum=MAX_WIDTH),
        hidden_size=hidden,
        intermediate_size=config.need_int("intermediate_size", maximum=MAX_WIDTH),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm_epsilon=config.need_float("rms_norm_eps", minimum=1e-12, maximum=0.1),
        rope=rope,
        windows=windows,
        context_length=context_length,
        tied_embeddings=config.optional_bool("tie_word_embeddings", False),
        qk_norm=qk_norm,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
    )


def read_layers(config: ConfigReader) -> int:
    """The number of layers."""
    return config.need_int("num_hidden_layers", maximum=MAX_LAYERS)


def read_heads(config: ConfigReader, hidden: int, kv_default: int | None = None) -> tuple[int, int, int]:
    """Query heads, key/value heads and the size of a head, which is `hidden / heads` where it is not given.

    Without a word about key/value heads there are `kv_default`; that, and null, stand for as many as query heads.
    """
    heads = config.need_int("num_attention_heads", maximum=MAX_HEADS)
    implied = heads if kv_default is None or config.is_null("num_key_value_heads") else kv_default
    kv_heads = config.optional_int("num_key_value_heads", implied, maximum=MAX_HEADS)
    if heads % kv_heads:
        raise BadInputError(f"config.json: {heads} attention heads cannot share {kv_heads} key/value heads evenly")
    head_dim = config.optional_int("head_dim", None, maximum=MAX_HEAD_DIM)
    if head_dim is None and hidden % heads:
        raise BadInputError(
            f"config.json: hidden_size {hidden} is not a multiple of {heads} heads, and head_dim is absent"
        )
    return heads, kv_heads, head_dim or hidden // heads


def read_rope(config: ConfigReader, dim: int, default_theta: float) -> tuple[RopeSpec, int]:
    """The rotary embedding of heads of size `dim`, and the number of positions it is good for.

    Understands `rope_theta` with `rope_scaling` (transformers 4) and `rope_parameters` (transformers 5). The
    `dynamic` type changes frequencies once a sequence outgrows `max_position_embeddings`, and then disagrees with its
    own cache, so the context ends there.
    """
    if dim % 2:
        raise BadInputError(f"config.json: head size {dim} is odd, and a rotary embedding needs pairs of channels")
    positions = config.need_int("max_position_embeddings", maximum=MAX_POSITIONS)
    config.expect("partial_rotary_factor", 1, 1.0)
    top_theta = config.optional_float("rope_theta", default_theta, exclusive_minimum=1.0)
    original = config.optional_int("original_max_position_embeddings", None, maximum=MAX_POSITIONS)
    config.first_of("rope_scaling", "rope_parameters")
    section = config.section("rope_scaling") or config.section("rope_parameters")
    if section is None:
        return _spec(dim, default_frequencies(dim, top_theta)), positions
    theta = section.optional_float("rope_theta", top_theta, exclusive_minimum=1.0)
    section.expect("partial_rotary_factor", 1, 1.0)
    kind = section.first_of("rope_type", "type") or "default"
    found = _typed_rope(section, str(kind), dim, theta, positions, original)
    section.finish()
    return found


def _typed_rope(
    section: ConfigReader, kind: str, dim: int, theta: float, positions: int, original: int | None
) -> tuple[RopeSpec, int]:
    if kind == "default":
        return _spec(dim, default_frequencies(dim, theta)), positions
    if kind == "linear":
        return _spec(
            dim, linear_frequencies(dim, theta, section.need_float("factor", minimum=1.0, maximum=MAX_FACTOR))
        ), positions
    if kind == "dynamic":
        section.need_float("factor", minimum=1.0, maximum=MAX_FACTOR)
        return _spec(dim, default_frequencies(dim, theta)), positions
    trained = original or section.optional_int("original_max_position_embeddings", None) or positions
    section.ignore("original_max_position_embeddings")
    if kind == "llama3":
        factor = section.need_float("factor", minimum=1.0, maximum=MAX_FACTOR)
        low = section.need_float("low_freq_factor", exclusive_minimum=0.0)
        high = section.need_float("high_freq_factor", exclusive_minimum=0.0)
        if high <= low:
            raise BadInputError(f"config.json: high_freq_factor {high} must be larger than low_freq_factor {low}")
        return _spec(dim, llama3_frequencies(dim, theta, factor, low, high, trained)), positions
    if kind == "yarn":
        yarn = _read_yarn(section, trained, positions)
        context = max(positions, int(yarn.factor * trained))
        return _spec(dim, yarn.frequencies(dim, theta), yarn.scaling()), context
    raise BadInputError(
        f"config.json: rope type '{kind}' is not supported; supported are default, linear, dynamic, yarn, llama3"
    )


def _read_yarn(section: ConfigReader, trained: int, positions: int) -> Yarn:
    return Yarn(
        factor=section.optional_float("factor", None, minimum=1.0, maximum=MAX_FACTOR) or positions / trained,
        original_context=trained,
        beta_fast=section.optional_float("beta_fast", 32.0, minimum=1e-3),
        beta_slow=section.optional_float("beta_slow", 1.0, minimum=1e-3),
        attention_factor=section.optional_float("attention_factor", None, exclusive_minimum=0.0),
        mscale=section.optional_float("mscale", None),
        mscale_all_dim=section.optional_float("mscale_all_dim", None),
        truncate=section.optional_bool("truncate", True),
    )


def _spec(dim: int, frequencies: np.ndarray, scaling: float = 1.0) -> RopeSpec:
    return RopeSpec(dim, tuple(float(f) for f in frequencies), float(scaling))


def read_window(config: ConfigReader) -> int | None:
    """`sliding_window`: null turns it off, but where it is absent transformers' classes have 4096."""
    return None if config.is_null("sliding_window") else config.optional_int("sliding_window", 4096)


def read_layer_windows(config: ConfigReader, layers: int) -> tuple[int | None, ...]:
    """The attention window of every layer, None where a layer sees everything.

    `layer_types` wins; published configurations often lack it, then layers from `max_window_layers` on slide when
    `use_sliding_window` is set.
    """
    window = read_window(config)
    first = config.optional_int("max_window_layers", 28, minimum=0)
    if not config.optional_bool("use_sliding_window", False):
        window = None
    kinds = config.optional_list("layer_types", str)
    if kinds is None:
        sliding = [window is not None and layer >= first for layer in range(layers)]
    else:
        unknown = sorted(set(kinds) - {"full_attention", "sliding_attention"})
        if unknown:
            raise BadInputError(f"config.json: layer type '{unknown[0]}' in layer_types is not supported")
        if len(kinds) != layers:
            raise BadInputError(f"config.json: layer_types has {len(kinds)} entries for {layers} layers")
        sliding = [kind == "sliding_attention" for kind in kinds]
    if any(sliding) and window is None:
        raise BadInputError(
            "config.json: layer_types names sliding layers, but sliding_window is null or use_sliding_window is off"
        )
    return tuple(window if slides else None for slides in sliding)
