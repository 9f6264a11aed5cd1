"""What an architecture says about a decoder: sizes and choices, free of any file format."""

from __future__ import annotations

from dataclasses import dataclass, replace

from inference_pio.graphs.blocks.rope import RopeSpec


@dataclass(frozen=True)
class DecoderSpec:
    """A dense decoder with grouped-query attention.

    `windows` has one entry per layer: the number of positions a token sees, itself included, or None for all.
    `context_length` is the number of positions that the original handles consistently.
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
    edge_tensors: tuple[str, ...] = ("model.embed_tokens.weight", "lm_head.weight")
    """The token table and the head, which recipes may treat more gently than the layers."""

    @property
    def layers(self) -> int:
        return len(self.windows)

    def truncated(self, layers: int) -> DecoderSpec:
        """The same decoder cut after its first `layers` layers."""
        return replace(self, windows=self.windows[:layers])
