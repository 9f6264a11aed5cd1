"""What leaves the graph of a block: token table, integers, and experts at the end of a sum."""

import sys
from pathlib import Path

import onnx_ir as ir

from inference_pio.graphs.architectures import qwen3_moe
from inference_pio.graphs.rewrites import experts_apart, host_embedding, int32_inputs
from inference_pio.graphs.source import WeightSource

sys.path.insert(0, str(Path(__file__).parents[2]))
from expert_cases import arrays_of as expert_arrays
from expert_cases import experts_spec
from graph_cases import FakeCheckpoint, Handmade, apply, arrays_of, canonical


def test_the_token_table_leaves_and_hidden_states_come_in():
    model = canonical()
    assert apply(model, host_embedding, required=True).matches == 1
    assert not any(node.op_type == "Gather" and node.inputs[0].const_value is not None for node in model.graph)
    hidden = next(value for value in model.graph.inputs if value.name == "hidden_states")
    assert [str(size) for size in hidden.shape] == ["1", "sequence_length", "32"]


def test_images_in_the_tokens_places_leave_with_it():
    made = Handmade()
    ids, mask = made.input("input_ids", 1, 4, dtype=ir.DataType.INT64), made.input("m", 1, 4, 1, dtype=ir.DataType.BOOL)
    table = made.weight("model.embed_tokens.weight", 16, 32)
    rows = made.b.op("Where", [mask, made.input("images", 1, 4, 32), made.b.op("Gather", [table, ids])])
    made.output(made.b.op("Relu", [rows]), "y", 1, 4, 32)
    assert apply(made.model, host_embedding).matches == 1
    assert [node.op_type for node in made.model.graph] == ["Relu"]


def test_other_lookups_stay():
    made = Handmade()
    inner = made.b.op("Cast", [made.input("x", 4)], {"to": int(ir.DataType.INT64)})
    made.output(made.b.op("Gather", [made.weight("positions", 16, 32), inner]), "y", 4, 32)
    assert apply(made.model, host_embedding).matches == 0


def test_integers_that_are_looked_up_by_or_cast_become_int32():
    made = Handmade()
    index, number = (made.input(name, 4, dtype=ir.DataType.INT64) for name in ("index", "number"))
    made.output(made.b.op("Gather", [made.weight("w", 16, 8), index]), "y", 4, 8)
    made.output(made.b.op("Cast", [number], {"to": int(ir.DataType.FLOAT)}), "z", 4)
    assert apply(made.model, int32_inputs).matches == 2
    assert index.dtype == number.dtype == ir.DataType.INT32


def test_integers_that_are_computed_with_stay():
    made = Handmade()
    number = made.input("number", 4, dtype=ir.DataType.INT64)
    total = made.b.op("Add", [number, made.b.const(1)])
    made.output(made.b.op("Cast", [total], {"to": int(ir.DataType.FLOAT)}), "z", 4)
    report = apply(made.model, int32_inputs)
    assert (report.matches, number.dtype) == (0, ir.DataType.INT64)
    assert "a Add reads it" in report.refused[0]


def test_experts_are_added_last():
    found = {}
    for width in (0, 24):
        spec = experts_spec(shared_width=width)
        dense = {name: array for name, array in arrays_of(spec).items() if ".mlp." not in name}
        model = qwen3_moe.build(spec, WeightSource(FakeCheckpoint(dense | expert_arrays(spec))))  # type: ignore[arg-type]
        found[width] = apply(model, experts_apart, spec=spec).matches
        residual = next(node for node in model.graph if node.name == "layers.0/mlp/residual")
        assert any(value.producer().op_type == "MoESoftmax" for value in residual.inputs)
    assert found == {0: 0, 24: 1}  # without shared experts they are last already
