"""A small decoder with latent attention over random weights in memory, for tests of graphs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from graph_cases import FakeCheckpoint, Formats, apply, rope_of

from inference_pio.graphs.architectures import glm4_moe_lite
from inference_pio.graphs.formats import FP32
from inference_pio.graphs.rewrites import latent_attention
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec, MlaSpec

MLA = MlaSpec(
    q_rank=24, kv_rank=16, nope_dim=12, rope_dim=8, value_dim=12, scale=20**-0.5, norm_epsilon=1e-6, interleaved=True
)
"""Keys and values of one size, so that the two parts of a weight differ in nothing but their place."""
SPEC = DecoderSpec(
    model_type="glm4_moe_lite",
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    heads=3,
    kv_heads=1,
    head_dim=24,
    norm_epsilon=1e-5,
    rope=rope_of(8),
    windows=(None, None),
    context_length=64,
    tied_embeddings=False,
    qk_norm=False,
    qkv_bias=False,
    output_bias=False,
    mla=MLA,
)


def arrays_of(spec: DecoderSpec = SPEC, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights for every tensor that `spec` implies, without experts."""
    mla, hidden, inner = spec.mla, spec.hidden_size, spec.intermediate_size
    assert mla is not None
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (spec.vocab_size, hidden)}
    queries = spec.heads * (mla.nope_dim + mla.rope_dim)
    for layer in range(spec.layers):
        linears = {
            "self_attn.kv_a_proj_with_mqa": ((mla.kv_rank + mla.rope_dim, hidden), spec.qkv_bias),
            "self_attn.kv_b_proj": ((spec.heads * (mla.nope_dim + mla.value_dim), mla.kv_rank), False),
            "self_attn.o_proj": ((hidden, spec.heads * mla.value_dim), spec.output_bias),
            "mlp.gate_proj": ((inner, hidden), False),
            "mlp.up_proj": ((inner, hidden), False),
            "mlp.down_proj": ((hidden, inner), False),
        }
        norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden, "self_attn.kv_a_layernorm": mla.kv_rank}
        if mla.q_rank is None:
            linears["self_attn.q_proj"] = ((queries, hidden), False)
        else:
            linears["self_attn.q_a_proj"] = ((mla.q_rank, hidden), spec.qkv_bias)
            linears["self_attn.q_b_proj"] = ((queries, mla.q_rank), False)
            norms["self_attn.q_a_layernorm"] = mla.q_rank
        for name, (shape, bias) in linears.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
            if bias:
                shapes[f"model.layers.{layer}.{name}.bias"] = shape[:1]
        shapes |= {f"model.layers.{layer}.{name}.weight": (size,) for name, size in norms.items()}
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (spec.vocab_size, hidden)}
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(1, 0.1, shape) if "norm" in name else rng.normal(0, 0.2, shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def spec_with(mla: dict[str, Any] | None = None, **changes: Any) -> DecoderSpec:
    return replace(SPEC, mla=replace(MLA, **(mla or {})), **changes)


def canonical(spec: DecoderSpec = SPEC, arrays: dict[str, np.ndarray] | None = None) -> ir.Model:
    """The canonical graph over random weights."""
    checkpoint = FakeCheckpoint(arrays or arrays_of(spec))
    return glm4_moe_lite.build(spec, WeightSource(checkpoint))  # type: ignore[arg-type]


def lowered(spec: DecoderSpec = SPEC, *rewrites: Any, formats: Formats = FP32) -> ir.Model:
    """The graph with its attention lowered, and `rewrites` after that."""
    model = canonical(spec)
    apply(model, latent_attention, *rewrites, spec=spec, formats=formats)
    kept = [value for value in model.graph.inputs if list(value.uses())]
    del model.graph.inputs[:]
    model.graph.inputs.extend(kept)
    return model


class Steps:
    """A session over a canonical or lowered graph, fed token by token or in chunks.

    Caches of a canonical graph grow; those of a lowered one are `capacity` rows of `unused` that it writes in place,
    or without a capacity exactly the rows in use, behind which there is NaN.
    """

    def __init__(self, model: ir.Model, folder: Path, rows: int = 1, capacity: int | None = None, unused: float = 7):
        ir.save(model, folder / "model.onnx")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self.session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value.shape for value in self.session.get_inputs()}
        self.capacity, self.grows = capacity, "position_ids" in self.inputs
        self.caches = {
            name: np.full((rows, 1, capacity or 64, shape[3]), unused if capacity else np.nan, np.float32)
            for name, shape in self.inputs.items()
            if name.startswith("past_key_values.")
        }
        self.past = 0

    def step(self, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Logits [B, S, V] of the next tokens."""
        total = self.past + ids.shape[1]
        mask = np.ones((len(ids), total), np.int64) if mask is None else mask
        binding = self.session.io_binding()
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", mask)
        binding.bind_output("logits")
        if self.grows:
            binding.bind_cpu_input("position_ids", np.tile(np.arange(self.past, total), (len(ids), 1)))
        for name, buffer in self.caches.items():
            present = name.replace("past_key_values.", "present.")
            if self.grows:
                binding.bind_cpu_input(name, np.ascontiguousarray(buffer[:, :, : self.past]))
                binding.bind_output(present)
            else:
                value = ort.OrtValue.ortvalue_from_numpy(buffer[:, :, : self.capacity or total])
                binding.bind_ortvalue_input(name, value)
                binding.bind_ortvalue_output(present, value)
        self.session.run_with_iobinding(binding)
        logits, *presents = binding.get_outputs()
        for name, value in zip(self.caches if self.grows else (), presents, strict=False):
            self.caches[name][:, :, :total] = value.numpy()
        self.past = total
        return logits.numpy()
