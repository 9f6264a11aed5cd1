"""What an architecture says about a decoder: sizes and choices, free of any file format."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from inference_pio.graphs.blocks.rope import RopeSpec


class Scoring(Enum):
    """How a router's logits become scores: over all experts together, or each by itself (and then with a bias)."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"


@dataclass(frozen=True)
class ExpertsSpec:
    """The experts of a layer: `count` of them, `active` per token, each `width` wide inside.

    `normalize` divides the weights of the active ones by their sum, `scale` multiplies them; `shared_width` is that of
    the experts that every token passes, together, and 0 without any.
    """

    count: int
    active: int
    width: int
    scoring: Scoring
    normalize: bool
    scale: float = 1.0
    shared_width: int = 0


@dataclass(frozen=True)
class VisionSpec:
    """A vision tower whose merged patches stand in a decoder's sequence, and whose layers `deepstack` feed it as well.

    A patch is `patch_size` pixels wide and high and `temporal_patch_size` frames long; `merge_size` x `merge_size`
    patches become one token. Learned positions form a square of `position_side`, resampled to every image's grid.
    The token ids are those of the placeholders that image and video tokens have in a prompt, and of what is around.
    """

    depth: int
    hidden_size: int
    intermediate_size: int
    heads: int
    channels: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    position_side: int
    inverse_frequencies: tuple[float, ...]
    deepstack: tuple[int, ...]
    image_token_id: int
    video_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int

    @property
    def patch_values(self) -> int:
        """Numbers that one patch is made of."""
        return self.channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merged_size(self) -> int:
        """Channels of the patches that become one token, side by side."""
        return self.hidden_size * self.merge_size**2


@dataclass(frozen=True)
class MlaSpec:
    """Multi-head latent attention: keys and values of all heads are made of one latent of `kv_rank` channels.

    A query or key head has `nope_dim` channels that know no position and `rope_dim` that are rotated; the rotated part
    of the key is one for all heads. A value head has `value_dim` channels. Queries pass `q_rank` channels on their
    way, or none (None). `scale` multiplies scores, `norm_epsilon` is that of the norms of both latents; `interleaved`
    rotates neighbouring channels instead of halves.
    """

    q_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    scale: float
    norm_epsilon: float
    interleaved: bool


@dataclass(frozen=True)
class DecoderSpec:
    """A decoder with grouped-query or latent (`mla`) attention, dense or with experts where `sparse` is true.

    What a layer caches of a token is `cache_kinds` times `kv_heads` rows of `head_dim` numbers; latent attention has
    one row of `kv_rank + rope_dim`, and its bias flags are those of the projections into latents and out of heads.
    `windows` has one entry per layer: the number of positions a token sees, itself included, or None for all.
    `context_length` is the number of positions that the original handles consistently. Tensor names begin with
    `prefix`; a decoder with `vision` takes images.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_epsilon: float
    rope: RopeSpec
    windows: tuple[int | None, ...]
    context_length: int
    tied_embeddings: bool
    qk_norm: bool
    qkv_bias: bool
    output_bias: bool
    moe: ExpertsSpec | None = None
    sparse: tuple[bool, ...] = ()
    mla: MlaSpec | None = None
    unused_tensors: tuple[str, ...] = ()
    """Patterns of tensors that the checkpoint stores and the decoder does not use."""
    mlp_bias: bool = False
    edge_tensors: tuple[str, ...] = ("model.embed_tokens.weight", "lm_head.weight")
    """The token table and the head, which recipes may treat more gently than the layers."""
    float_tensors: tuple[str, ...] = ("*.mlp.gate.weight",)
    """Patterns of tensors that no recipe rounds unless it names them: a router's rounding changes which experts run."""
    sensitive_tensors: tuple[str, ...] = ()
    """Patterns of tensors that recipes in blocks store one width up: few bytes that much of the error comes from."""
    prefix: str = "model"
    vision: VisionSpec | None = None

    @property
    def layers(self) -> int:
        return len(self.windows)

    @property
    def cache_kinds(self) -> tuple[str, ...]:
        """The names of a layer's cache tensors."""
        return ("key", "value") if self.mla is None else ("latent",)

    def experts(self, layer: int) -> ExpertsSpec | None:
        """The experts of a layer, or None where it is dense."""
        return self.moe if self.sparse and self.sparse[layer] else None

    def truncated(self, layers: int) -> DecoderSpec:
        """The same decoder cut after its first `layers` layers."""
        return replace(self, windows=self.windows[:layers], sparse=self.sparse[:layers])
