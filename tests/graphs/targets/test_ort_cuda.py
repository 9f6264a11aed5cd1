"""Lowering to ort-cuda: matches of both dialects, what an old runtime may not see, and the same numbers."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from cuda_cases import caches, lowered, session_of, without_head_norms
from expert_cases import arrays_of as expert_arrays
from expert_cases import experts_spec
from graph_cases import FakeCheckpoint, arrays_of, canonical, context, logits, some_ids, spec_with
from latent_cases import SPEC as LATENT
from latent_cases import canonical as canonical_latents

from inference_pio.errors import BadInputError
from inference_pio.graphs.architectures import qwen3_moe
from inference_pio.graphs.formats import FP32, W8A8, WeightFormat
from inference_pio.graphs.lint import find_dialect
from inference_pio.graphs.lint.linter import lint
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.targets import find_target

INT4 = WeightFormat(4).exact()
HALF = ir.DataType.FLOAT16


def sm61_formats(name: str) -> WeightFormat:
    return W8A8 if "embed_tokens" in name or "lm_head" in name else INT4


def accepted(model: ir.Model, folder: Path) -> list[str]:
    path = folder / "linted.onnx"
    ir.save(model, path)
    return [finding.message for finding in lint(path, find_dialect("ort-1.20.2")).findings]


@pytest.mark.parametrize("formats", [FP32, W8A8, sm61_formats], ids=["fp32", "w8a8", "int4"])
@pytest.mark.parametrize("changes", [{}, {"qkv_bias": True, "kv_heads": 4, "tied_embeddings": False}], ids=str)
def test_sm61_is_what_the_old_runtime_has(tmp_path, formats, changes):
    spec = spec_with(**changes)
    model, matches = lowered(spec, formats)
    assert (model.graph.opset_imports[""], model.ir_version) == (21, 10)
    assert (matches["cached_attention"], matches["rotary_kernels"], matches["candidates"]) == (2, 4, 1)
    assert not {node.op_type for node in model.graph} & {
        "Attention",
        "Swish",
        "RMSNormalization",
        "GroupQueryAttention",
    }
    assert accepted(model, tmp_path) == []


@pytest.mark.parametrize("changes", [{}, {"windows": (4, None)}, {"kv_heads": 1, "qkv_bias": True}], ids=str)
def test_sm61_computes_the_same(tmp_path, changes):
    spec, ids = spec_with(**changes), some_ids(length=12)
    expected = logits(canonical(spec), tmp_path, ids, spec)
    found = logits(lowered(spec)[0], tmp_path, ids, spec, **caches(spec, 2, 17))
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(logits(lowered(spec, W8A8)[0], tmp_path, ids, spec, **caches(spec, 2, 17)) - expected).max() < 0.5


def test_sm61_latents_and_experts(tmp_path):
    model = canonical_latents()
    find_target("ort-cuda", "sm61").lower(model, context(LATENT))
    found = Counter(node.op_type for node in model.graph)
    assert (found["ScatterND"], found["TensorScatter"]) == (2, 0)
    assert accepted(model, tmp_path) == []

    spec = experts_spec()
    dense = {name: array for name, array in arrays_of(spec).items() if ".mlp." not in name}
    for formats in (FP32, INT4):
        source = WeightSource(FakeCheckpoint(dense | expert_arrays(spec)))  # type: ignore[arg-type]
        model = qwen3_moe.build(spec, source)
        lower = find_target("ort-cuda", "sm61").lower
        if formats is FP32:
            lower(model, context(spec, formats))
            assert len(model.functions) == 2 and accepted(model, tmp_path) == []
        else:
            with pytest.raises(BadInputError, match="would be int4-exact, and this target has no operator for experts"):
                lower(model, context(spec, formats))


@pytest.mark.parametrize(
    ("name", "formats", "message"),
    [
        (
            "o_proj",
            WeightFormat(8).exact(),
            "cannot have the format int8-exact, whose only fast product is that of experts",
        ),
        ("embed_tokens", INT4, "would be int4-exact, which this target cannot look up: give it fp32 or w8a8"),
    ],
)
def test_sm61_refuses_what_it_has_no_kernel_for(name, formats, message):
    spec = spec_with(tied_embeddings=False)
    with pytest.raises(BadInputError, match=message):
        lowered(spec, lambda tensor: formats if name in tensor else FP32)


@pytest.mark.parametrize("formats", [WeightFormat(16), INT4, WeightFormat(8).exact()], ids=str)
def test_modern_norms_heads_inside_the_attention(formats):
    model, matches = lowered(spec_with(), formats, "modern", HALF)
    assert (matches["group_query_attention"], matches["fold_head_norms"]) == (2, 2)
    assert "cached_attention" not in matches
    found = Counter(node.op_type for node in model.graph)
    assert found["SimplifiedLayerNormalization"] == 1  # the first; the others are fused with their residual
    assert found["Cast"] == 3  # of lengths and of the logits
    kinds = {value.name: value.dtype for value in (*model.graph.inputs, *model.graph.outputs)}
    assert kinds["past_key_values.0.key"] == kinds["present.1.value"] == HALF
    assert kinds["logits"] == kinds["candidate_logits"] == ir.DataType.FLOAT
    floats = {v.dtype for v in model.graph.initializers.values()} & {HALF, ir.DataType.FLOAT}
    assert floats == {HALF, ir.DataType.FLOAT}  # wide: what temperatures are by default
    wide = [name for name, v in model.graph.initializers.items() if v.dtype == ir.DataType.FLOAT]
    assert wide == ["candidate_temperatures"]


@pytest.mark.parametrize("dialect", ["sm61", "modern"])
def test_float32_has_the_same_attention_in_both_dialects(tmp_path, dialect):
    spec, ids = spec_with(), some_ids(1, 7)
    model, matches = lowered(spec, FP32, dialect)
    assert matches["cached_attention"] == 2 and "half_precision" not in matches
    expected = logits(canonical(spec), tmp_path, ids, spec)
    assert np.abs(logits(model, tmp_path, ids, spec, **caches(spec, 1, 9)) - expected).max() < 1e-5


@pytest.mark.parametrize(("formats", "error"), [(WeightFormat(16), 0.05), (WeightFormat(8).exact(), 0.2)], ids=str)
def test_sixteen_bits_stay_close(tmp_path, formats, error):
    spec, ids = spec_with(), some_ids(1, 12)
    expected = logits(canonical(spec), tmp_path, ids, spec)
    model, _ = lowered(spec, formats, compute=HALF, target=without_head_norms())
    found = logits(model, tmp_path, ids, spec, **caches(spec, 1, 16, np.float16))
    assert 0 < np.abs(found - expected).max() < error


def test_bfloat16_has_the_types_of_its_operators(tmp_path):
    """No CPU kernel computes in it, but a session checks all types before it says so."""
    model, _ = lowered(spec_with(), WeightFormat(16, brain=True), "modern", ir.DataType.BFLOAT16)
    with pytest.raises(Exception, match="Could not find an implementation"):
        session_of(model, tmp_path)
