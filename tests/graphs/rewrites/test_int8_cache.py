"""The fused attention's cache becomes int8 when calibration gave scales, and stays float32 when it did not."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from inference_pio.errors import BadInputError
from inference_pio.graphs.kv_scales import KvScales
from inference_pio.graphs.rewrites import group_query_attention, int8_cache
from inference_pio.graphs.rewrites.rewrite import RewriteReport, apply_rewrite, prune

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import SPEC, apply, canonical, count, first, set_attribute
from int8_cache_cases import lowered, lowering

STEPS = np.full((2, 16), 0.02, np.float32)
SCALES = dict.fromkeys(range(2), KvScales(STEPS, STEPS))


def fused() -> ir.Model:
    model = canonical()
    apply(model, group_query_attention, required=True)
    return model


def rewrite(model: ir.Model, scales: dict[int, KvScales] | None) -> RewriteReport:
    report = apply_rewrite(int8_cache, model.graph, lowering(SPEC, scales), required=False)
    prune(model.graph)
    return report


def caches(model: ir.Model) -> dict[str, ir.DataType]:
    values = [*model.graph.inputs, *model.graph.outputs]
    return {
        str(value.name): value.dtype for value in values if "key" in str(value.name) or "present" in str(value.name)
    }


def test_every_layer_gets_int8_buffers_of_the_same_name_and_shape(tmp_path):
    model, before = fused(), fused()
    report = rewrite(model, SCALES)
    assert (report.matches, report.refused) == (2, [])
    assert caches(model) == dict.fromkeys(caches(before), ir.DataType.INT8)
    assert [value.shape for value in model.graph.outputs] == [value.shape for value in before.graph.outputs]
    assert [count(model, name) for name in ("GroupQueryAttention", "If", "LessOrEqual")] == [0, 2, 1]
    ir.save(model, tmp_path / "model.onnx")
    onnx.checker.check_model(str(tmp_path / "model.onnx"))


def test_the_branches_read_the_cache_as_integers_or_turn_it_into_floats():
    model = fused()
    rewrite(model, SCALES)
    node = first(model, "If")
    few, many = (list(node.attributes[name].value) for name in ("then_branch", "else_branch"))
    assert [n.op_type for n in few] == ["GroupQueryAttention"]
    assert few[0].attributes["kv_cache_bit_width"].value == 8
    assert sum(n.op_type == "TensorScatter" for n in many) == 2
    assert many[-1].op_type == "GroupQueryAttention"
    assert "kv_cache_bit_width" not in many[-1].attributes
    assert {few[0].attributes[k].value for k in ("scale", "local_window_size")} == {
        many[-1].attributes[k].value for k in ("scale", "local_window_size")
    }


def test_factors_invert_the_steps_and_a_step_of_zero_counts_as_one():
    key = STEPS.copy()
    key[1] = 0
    model = fused()
    rewrite(model, {**SCALES, 0: KvScales(key, STEPS)})
    factors = {n: v.const_value.numpy() for n, v in model.graph.initializers.items() if n.startswith("layers.0.int8")}
    query, keys = (factors[f"layers.0.int8_cache.{name}_factor"] for name in ("query", "key"))
    assert query.reshape(4, 16)[:, 0].tolist() == pytest.approx([0.02, 0.02, 1, 1])
    assert keys.reshape(2, 16)[:, 5].tolist() == pytest.approx([50, 1])
    assert (factors["layers.0.int8_cache.value_factor"] == 1 / STEPS.reshape(-1)).all()
    assert factors["layers.0.int8_cache.result_factor"].shape == (64,)


def test_without_scales_the_cache_stays_float():
    model = fused()
    report = rewrite(model, None)
    assert report.matches == 0
    assert "float32" in report.refused[0]
    assert set(caches(model).values()) == {ir.DataType.FLOAT}


def test_the_target_lowers_both_ways():
    assert set(caches(lowered(SPEC, SCALES)).values()) == {ir.DataType.INT8}
    assert set(caches(lowered(SPEC, None)).values()) == {ir.DataType.FLOAT}


def test_canonical_attention_does_not_match():
    assert rewrite(canonical(), SCALES).matches == 0


def test_a_second_pass_finds_nothing():
    model = fused()
    rewrite(model, SCALES)
    assert rewrite(model, SCALES) == RewriteReport("int8_cache")


def test_keys_that_were_rotated_before_are_left_alone():
    model = fused()
    set_attribute(first(model, "GroupQueryAttention"), "do_rotary", 0)
    report = rewrite(model, SCALES)
    assert report.matches == 1
    assert "rotated outside" in report.refused[0]


def test_attention_over_values_that_are_not_cache_inputs_does_not_match():
    model = fused()
    next(value for value in model.graph.inputs if value.name == "past_key_values.1.key").name = "other"
    assert rewrite(model, SCALES).matches == 1


def test_missing_and_misfitting_scales_are_errors():
    with pytest.raises(BadInputError, match="no key/value scales for layer 1"):
        rewrite(fused(), {0: SCALES[0]})
    with pytest.raises(BadInputError, match="layer 0's key/value scales are for 2 x 8 value channels"):
        rewrite(fused(), {0: replace(SCALES[0], value=STEPS[:, :8])})
