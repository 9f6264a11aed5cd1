"""Lowering to ort-cpu: how often every rewrite matches, and what is left of the canonical graph."""

import sys
from collections import Counter
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from inference_pio.errors import BadInputError
from inference_pio.graphs.architectures import qwen3_moe
from inference_pio.graphs.formats import FP32, WeightFormat
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.targets import find_target

sys.path.insert(0, str(Path(__file__).parents[2]))
from expert_cases import arrays_of as expert_arrays
from expert_cases import experts_spec
from graph_cases import FakeCheckpoint, arrays_of, canonical, context, spec_with


def lower(spec, formats):
    model = canonical(spec)
    reports = find_target("ort-cpu").lower(model, context(spec, formats))
    return model, {report.name: report.matches for report in reports}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_match_counts(layers, tied):
    spec = spec_with(windows=(None,) * layers, tied_embeddings=tied)
    model, matches = lower(spec, WeightFormat(8))
    assert matches == {
        "keep_logits": 1,
        "pack_qkv": layers,
        "pack_gate_up": layers,
        "group_query_attention": layers,
        "int8_cache": 0,
        "expert_kernels": 0,
        "integer_kernels": 0,
        "skip_norm": 2 * layers,
        "linear_kernels": 4 * layers + 1,
        "embedding_kernels": 1,
    }
    found = Counter(node.op_type for node in model.graph)
    assert not found.keys() & {"MatMul", "Transpose", "Attention", "RotaryEmbedding", "Gather", "Cos"}
    assert found["MatMulNBits"] == 4 * layers + 1


@pytest.mark.parametrize(("formats", "operator"), [(FP32, "MoE"), (WeightFormat(8), "QMoE")], ids=["fp32", "int8"])
@pytest.mark.parametrize("shared_width", [0, 24])
def test_experts(formats, operator, shared_width):
    """The router is a linear layer of its own, shared experts are a dense MLP, and no function is left."""
    spec = experts_spec(shared_width=shared_width)
    dense = {name: array for name, array in arrays_of(spec).items() if ".mlp." not in name}
    source = WeightSource(FakeCheckpoint(dense | expert_arrays(spec)))  # type: ignore[arg-type]
    model = qwen3_moe.build(spec, source)
    reports = find_target("ort-cpu").lower(model, context(spec, formats))
    matches = {report.name: report.matches for report in reports}
    shared = 1 if shared_width else 0
    assert (matches["expert_kernels"], matches["pack_gate_up"], matches["skip_norm"]) == (1, shared, 2)
    assert matches["linear_kernels"] == 2 + 1 + 2 * shared + 1
    found = Counter(node.op_type for node in model.graph)
    assert found[operator] == 1
    assert not found.keys() & {"MatMul", "Transpose", "MoESoftmax"}
    assert not model.functions
    onnx.checker.check_model(ir.to_proto(model))


def test_a_mixture_of_formats_packs_what_agrees():
    spec = spec_with()
    _, matches = lower(spec, lambda name: WeightFormat(4 if "v_proj" in name or "up_proj" in name else 8))
    assert (matches["pack_qkv"], matches["pack_gate_up"], matches["linear_kernels"]) == (0, 0, 2 * 7 + 1)


def test_inputs_that_nobody_reads_are_gone():
    model, _ = lower(spec_with(), FP32)
    names = [value.name for value in model.graph.inputs]
    assert names[:2] == ["input_ids", "attention_mask"]
    assert names[-1] == "num_logits_to_keep"
    assert "position_ids" not in names


@pytest.mark.parametrize("formats", [FP32, WeightFormat(8), WeightFormat(4)], ids=str)
def test_nodes_stand_in_order_and_names_are_unique(formats):
    model, _ = lower(spec_with(qkv_bias=True), formats)
    known = {value.name for value in (*model.graph.inputs, *model.graph.initializers.values())}
    for node in model.graph:
        for value in node.inputs:
            assert value is None or value.name in known, f"{node.name} reads {value.name} before it is made"
        for value in node.outputs:
            assert value.name == "" or value.name not in known
            known.add(value.name)
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
    assert isinstance(model, ir.Model)


def test_a_model_that_does_not_fit_is_refused_with_the_reason():
    spec = spec_with(head_dim=24)
    with pytest.raises(BadInputError, match=r"group_query_attention matched nothing .*head size 24 is not a multiple"):
        lower(spec, FP32)
