"""Quantized artifacts equal transformers with the same dequantized weights and the same rounded activations.

Whatever an artifact loses beyond its rounding is a bug, and this is where it would show.
"""

from __future__ import annotations

import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from inference_pio.artifact.bundle import Artifact
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.graphs.rounding import dequantize_blocks, round_blocks

sys.path.insert(0, str(Path(__file__).parents[1]))
from shapes import original, reference_logits, write_shape

MOE_CASES = ["moe", "moe_all_experts", "moe_dense_between", "moe_every_second"]
DENSE_CASES = ["odd_sizes", "odd_heads", "bias", "untied", "window_one_kv_head", "qwen2", "llama_biases", "mistral"]
CASES = [*DENSE_CASES, *MOE_CASES, "tiny"]
LENGTH = 100
SENSITIVE = "model.layers.0.self_attn."
"""What is one width up in models with experts."""


def block_of(columns: int) -> int:
    return next((size for size in (128, 64, 32, 16) if columns % size == 0), 32)


def rounded_weight(weight: torch.Tensor, bits: int, block: int) -> torch.Tensor:
    """The weight as its blocks of integers and scales say."""
    data, scales = round_blocks(weight.numpy(), bits, block, clip=bits == 4)
    return torch.from_numpy(dequantize_blocks(data, scales, bits, weight.shape[1]).copy())


def round_activations(x: torch.Tensor, block: int) -> torch.Tensor:
    """int8 per row and block of the last axis, max|x| -> 127."""
    padded = nn.functional.pad(x, (0, -x.shape[-1] % block)).unflatten(-1, (-1, block))
    scales = padded.abs().amax(-1, keepdim=True) / 127
    values = torch.round(padded / torch.where(scales == 0, 1, scales)) * scales
    return values.flatten(-2)[..., : x.shape[-1]]


def round_experts(experts: nn.Module, bits: int, rounded: bool) -> None:
    """All experts of a layer as their integers say; without a block size that divides both rows a row is one block."""
    hidden, inner = experts.gate_up_proj.shape[2], experts.down_proj.shape[2]
    block = next((size for size in (128, 64, 32, 16) if math.gcd(hidden, inner) % size == 0), None)
    for name in ("gate_up_proj", "down_proj"):
        weight = getattr(experts, name).detach()
        values = rounded_weight(weight.flatten(0, 1), bits, block or weight.shape[2]).reshape(weight.shape)
        setattr(experts, name, nn.Parameter(values, requires_grad=False))
    if rounded and block is not None:
        experts.forward = partial(rounding_experts, experts, block)


def rounding_experts(
    experts: nn.Module, block: int, x: torch.Tensor, index: torch.Tensor, share: torch.Tensor
) -> torch.Tensor:
    """transformers' experts with both of their inputs rounded."""
    total = torch.zeros_like(x)
    for expert in range(len(experts.down_proj)):
        token, place = torch.where(index == expert)
        gate, up = (round_activations(x[token], block) @ experts.gate_up_proj[expert].T).chunk(2, dim=-1)
        inner = round_activations(nn.functional.silu(gate) * up, block)
        total.index_add_(0, token, inner @ experts.down_proj[expert].T * share[token, place, None])
    return total


def simulation(path: Path, precision: str, rounded: bool, nudge: float = 0.0) -> nn.Module:
    """transformers' own model with the weights that the integers stand for.

    With `rounded`, activations in front of every linear layer are rounded as the kernels do; `nudge` changes the
    embeddings in their last bits.
    """
    model = original(path)
    bits = {"int8": 8, "int4": 4}[precision]
    sensitive = SENSITIVE if model.config.model_type == "qwen3_moe" else "-"
    table, head = model.model.embed_tokens.weight.detach(), model.lm_head.weight.detach()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            block = block_of(module.in_features)
            weight = head if name == "lm_head" else module.weight.detach()
            halved = bits == 8 and name.startswith(sensitive)
            eight = name == "lm_head" or name.startswith(sensitive)
            values = weight.half().float() if halved else rounded_weight(weight, 8 if eight else bits, block)
            module.weight = nn.Parameter(values, requires_grad=False)
            if rounded and not halved:
                module.register_forward_pre_hook(lambda _, x, block=block: (round_activations(x[0], block),))
        if name.endswith("mlp.experts"):
            round_experts(module, bits, rounded)
    if table.shape[1] % 16 == 0:  # otherwise no lookup kernel takes it, and the table stays float32
        table = rounded_weight(table, 8, block_of(table.shape[1]))
    model.model.embed_tokens.weight = nn.Parameter(table * (1 + nudge), requires_grad=False)
    return model


def artifact_logits(path: Path, ids: np.ndarray, exact: bool) -> np.ndarray:
    """Logits [1, S, V] of an artifact; with `exact` its kernels are told to leave activations alone."""
    artifact = Artifact.open(path)
    model = onnx.load(path / "model.onnx", load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute if exact else ():
            if attribute.name == "accuracy_level":
                attribute.i = 0
    changed = path / "changed.onnx"
    onnx.save(model, changed)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    with pytest.MonkeyPatch.context() as patch:
        if exact:  # eight bits in blocks round activations at every level
            patch.setenv("ORT_QMOE_CPU_QNBIT_GEMM", "fp32")
        session = ort.InferenceSession(str(changed), options, providers=["CPUExecutionProvider"])
    cache = artifact.manifest.cache
    empty = np.zeros((1, cache.kv_heads, 0, cache.head_dim), np.float32)
    past = {f"past_key_values.{n}.{kind}": empty for n in range(cache.layers) for kind in ("key", "value")}
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), **past}
    return session.run(["logits"], feeds)[0]


def kl(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """KL(expected || found) per position in nats, float64."""
    logs = [
        x.astype(np.float64) - np.logaddexp.reduce(x.astype(np.float64), -1, keepdims=True) for x in (expected, found)
    ]
    return (np.exp(logs[0]) * (logs[0] - logs[1])).sum(-1)


@pytest.fixture(scope="module", params=CASES)
def checkpoint(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "tiny":
        return tiny
    return write_shape(request.param, tmp_path_factory.mktemp(request.param) / "checkpoint")


@pytest.fixture(scope="module", params=["int8", "int4"])
def case(request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("artifact") / "out"
    export(checkpoint, out, ExportOptions(precision=request.param))
    return checkpoint, request.param, out


def ids() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 2000, (1, LENGTH))


def test_weights_and_layout(case):
    checkpoint, precision, out = case
    expected = reference_logits(simulation(checkpoint, precision, rounded=False), ids())
    assert np.abs(artifact_logits(out, ids(), exact=True) - expected).max() < 1e-4


def test_rounded_activations(case):
    """A value that falls to the other side of a rounding edge pushes others, so a twin says how far is near."""
    checkpoint, precision, out = case
    found = artifact_logits(out, ids(), exact=False)
    expected = reference_logits(simulation(checkpoint, precision, rounded=True), ids())
    twins = [simulation(checkpoint, precision, rounded=True, nudge=nudge) for nudge in (1e-6, -1e-6, 3e-6)]
    apart = max(kl(expected, reference_logits(twin, ids())).mean() for twin in twins)
    assert kl(expected, found).mean() < max(5e-5, 1.5 * apart)
    exact = reference_logits(original(checkpoint), ids())
    assert kl(exact, found).mean() < 1.2 * kl(exact, expected).mean() + 1e-6


def test_rounding_activations_is_what_separates_them(case):
    """Guards the tests above: without the rounding in it, the simulation would not match."""
    checkpoint, precision, out = case
    expected = reference_logits(simulation(checkpoint, precision, rounded=False), ids())
    assert np.abs(artifact_logits(out, ids(), exact=False) - expected).max() > 1e-3
