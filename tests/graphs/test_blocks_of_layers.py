"""Cutting a lowered decoder into blocks, experts and head."""

import sys
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from inference_pio.errors import BadInputError
from inference_pio.graphs import blocks_of_layers
from inference_pio.graphs.architectures import qwen3_moe
from inference_pio.graphs.parts import Part
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.targets import find_target

sys.path.insert(0, str(Path(__file__).parents[1]))
from expert_cases import arrays_of as expert_arrays
from expert_cases import experts_spec
from graph_cases import FakeCheckpoint, arrays_of, canonical, context, spec_with

TARGET = find_target("tensorrt", "trt85")


def cut(layers: int, block_layers: int | None = None, **changes: object) -> list[Part]:
    spec = spec_with(windows=(None,) * layers, **changes)
    model, asked = canonical(spec), context(spec)
    TARGET.lower(model, asked)
    return TARGET.parts(model, asked, block_layers)


def names(values: object) -> list[str]:
    return [str(value.name) for value in values]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("layers", "block_layers", "expected"),
    [(1, None, [1]), (5, 2, [2, 2, 1]), (5, 5, [5]), (3, 1, [1, 1, 1]), (4, None, [4])],
)
def test_every_layer_is_in_one_block(layers, block_layers, expected):
    parts = cut(layers, block_layers)
    assert [part.role for part in parts] == ["block"] * len(expected) + ["head"]
    assert [len(part.layers) for part in parts[:-1]] == expected
    assert [layer for part in parts for layer in part.layers] == list(range(layers))
    assert len({part.file for part in parts}) == len(parts)


def test_the_default_goes_by_weights(monkeypatch):
    monkeypatch.setattr(blocks_of_layers, "BLOCK_PARAMETERS", 2 * 11_000)  # a layer has 10,848 weights
    assert [len(part.layers) for part in cut(5)[:-1]] == [2, 2, 1]
    monkeypatch.setattr(blocks_of_layers, "BLOCK_PARAMETERS", 1)
    assert [len(part.layers) for part in cut(2)[:-1]] == [1, 1]


@pytest.mark.parametrize("block_layers", [0, -1, 4])
def test_impossible_sizes_are_refused(block_layers):
    with pytest.raises(BadInputError, match=f"--block-layers {block_layers} is outside 1 to 3"):
        cut(3, block_layers)


def test_a_target_that_keeps_decoders_whole_refuses_block_layers():
    model = canonical()
    with pytest.raises(BadInputError, match="ort-cpu keeps a decoder whole: leave --block-layers out"):
        find_target("ort-cpu").parts(model, context(), 1)


@pytest.mark.parametrize("windows", [(None, None), (None, 16)])
def test_the_interface_of_a_block(windows):
    spec = spec_with(windows=windows)
    model, asked = canonical(spec), context(spec)
    TARGET.lower(model, asked)
    first, second, head = TARGET.parts(model, asked, 1)
    biases = [[f"{kind}{'' if window is None else '.16'}" for kind in ("past_bias", "new_bias")] for window in windows]
    for layer, part in enumerate((first, second)):
        caches = [f"{layer}.{kind}" for kind in ("key", "value")]
        expected = {"hidden_states", "cos", "sin", *biases[layer], *(f"past_key_values.{name}" for name in caches)}
        assert set(names(part.model.graph.inputs)) == expected
        assert names(part.model.graph.outputs) == ["next_hidden_states", *(f"present.{name}" for name in caches)]
        for value in (*part.model.graph.inputs, *part.model.graph.outputs):
            assert value.dtype == ir.DataType.FLOAT
        shapes = {str(v.name): [str(d) for d in v.shape] for v in (*part.model.graph.inputs, *part.model.graph.outputs)}
        assert shapes[f"past_key_values.{layer}.key"] == ["1", "past_length", "2", "16"]
        assert shapes[f"present.{layer}.value"] == ["1", "sequence_length", "2", "16"]
    assert names(head.model.graph.inputs) == ["hidden_states"]
    assert names(head.model.graph.outputs) == ["logits"]


def test_blocks_are_valid_graphs_of_opset_17():
    for part in cut(2, 1, qkv_bias=True, tied_embeddings=False):
        assert (part.model.graph.opset_imports, part.model.ir_version) == ({"": 17}, 8)
        assert not part.model.functions
        onnx.checker.check_model(ir.to_proto(part.model), full_check=True)


@pytest.mark.parametrize("shared_width", [0, 24])
def test_experts_stand_between_blocks(shared_width):
    spec = experts_spec(shared_width=shared_width)
    dense = {name: array for name, array in arrays_of(spec).items() if ".mlp." not in name}
    model = qwen3_moe.build(spec, WeightSource(FakeCheckpoint(dense | expert_arrays(spec))))  # type: ignore[arg-type]
    asked = context(spec)
    TARGET.lower(model, asked)
    block, experts, head = TARGET.parts(model, asked, None)
    assert [part.role for part in (block, experts, head)] == ["block", "experts", "head"]
    assert names(block.model.graph.outputs)[:2] == ["next_hidden_states", "experts_input"]
    assert names(experts.model.graph.inputs) == ["experts_input"]
    assert names(experts.model.graph.outputs) == ["experts_output"]
    assert names(head.model.graph.inputs) == ["hidden_states", "experts_output"]
    operators = {node.op_type for node in experts.model.graph}
    assert "MoE" in operators
    assert not operators & {"MoESoftmax"}
    shared = [name for name in block.model.graph.initializers if "shared_experts" in name]
    assert bool(shared) == bool(shared_width)  # shared experts run where the attention runs
