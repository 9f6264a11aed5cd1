"""Products with a weight per head as a grouped convolution between QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import FP32, W8A8, W8A8_STATIC, WeightFormat
from inference_pio.graphs.rewrites import static_head_products
from inference_pio.graphs.rewrites.rewrite import RewriteReport, apply_rewrite, attribute, prune
from inference_pio.graphs.rounding import dequantize_channels, round_channels
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.graphs.weights import recipe_of

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import Formats, Handmade, context, count, some_ids
from graph_cases import canonical as grouped
from latent_cases import MLA, SPEC, Steps, arrays_of, canonical, spec_with

STEPS = {"key": 0.06, "value": 0.004}
NAME = "model.layers.{}.self_attn.kv_b_proj.weight"
IDS = some_ids(1, 20)


class Calibrated:
    """A step for the parts of every tensor, the same in all layers."""

    def __init__(self, steps: dict[str, float] = STEPS) -> None:
        self._steps = steps

    def linear(self, tensor: str) -> None:
        return None

    def activation_scale(self, tensor: str) -> float | None:
        return self._steps.get(tensor.split("[")[1][:-1])


def lowered(
    model: ir.Model, formats: Formats = W8A8_STATIC, spec: DecoderSpec = SPEC, calibrated: object = None
) -> RewriteReport:
    asked = replace(context(spec, formats), calibrated=calibrated or Calibrated())
    report = apply_rewrite(static_head_products, model.graph, asked, required=False)  # type: ignore[arg-type]
    prune(model.graph)
    return report


def rounded_before(spec: DecoderSpec) -> ir.Model:
    """The float graph over weights that were rounded, with both inputs of every product rounded in the graph."""
    arrays, mla = arrays_of(spec), spec.mla
    assert mla is not None
    for name in [name for name in arrays if "kv_b_proj" in name]:
        for weight in arrays[name].reshape(spec.heads, -1, mla.kv_rank):
            key, value = weight[: mla.nope_dim], weight[mla.nope_dim :]
            key[:] = dequantize_channels(*round_channels(np.ascontiguousarray(key.T), clip=False)).T
            value[:] = dequantize_channels(*round_channels(value, clip=False))
    model = canonical(spec, arrays)
    for node in list(model.graph):
        part = str(node.name).rsplit("/", 1)[-1]
        if node.op_type != "MatMul" or part not in ("absorb", "value"):
            continue
        step, low, high = (
            ir.Value(name=f"{node.name}/{index}", const_value=ir.tensor(np.float32(number)))
            for index, number in enumerate((STEPS["key" if part == "absorb" else "value"], -128, 127))
        )
        x = node.inputs[0]
        for operator, inputs in (("Div", [step]), ("Round", []), ("Clip", [low, high]), ("Mul", [step])):
            made = ir.node(operator, [x, *inputs])
            model.graph.insert_before(node, made)
            x = made.outputs[0]
        for value in (step, low, high):
            model.graph.register_initializer(value)
        node.replace_input_with(0, x)
    return model


@pytest.mark.parametrize("spec", [SPEC, spec_with({"value_dim": 20}), spec_with(heads=1)], ids=["same", "other", "one"])
def test_the_products_are_those_of_the_rounded_values(spec, tmp_path):
    """Of a prompt and of single tokens; a value near a rounding edge may fall to the other side."""
    model = canonical(spec)
    assert lowered(model, spec=spec).matches == 4
    found, expected = (Steps(made, tmp_path) for made in (model, rounded_before(spec)))
    plain, done = Steps(canonical(spec), tmp_path), 0
    for size in (17, 1, 1, 1):
        ids = IDS[:, done : done + size]
        logits = found.step(ids)
        assert np.abs(logits - expected.step(ids)).mean() < 1e-4
        assert np.abs(logits - plain.step(ids)).mean() > 1e-3
        done += size


def test_a_head_is_a_group_of_a_convolution():
    model = canonical()
    lowered(model)
    convolutions = [node for node in model.graph if node.op_type == "Conv"]
    assert [attribute(node, "group") for node in convolutions] == [3] * 4
    kernels = [value for name, value in model.graph.initializers.items() if name.endswith(".kernel")]
    assert {tuple(value.shape) for value in kernels} == {(3 * 16, 12, 1, 1), (3 * 12, 16, 1, 1)}
    assert {value.dtype for value in kernels} == {ir.DataType.INT8}
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = (value.const_value.numpy() for value in node.inputs[1:])
            assert (scale > 0).all() and zero.dtype == np.int8 and zero.shape == scale.shape and not zero.any()
            assert scale.size == 1 or attribute(node, "axis") == 0


def test_weights_say_which_part_of_which_tensor_they_are():
    model = canonical()
    lowered(model)
    sources = [recipe.sources for value in model.graph.initializers.values() if (recipe := recipe_of(value))]
    name = NAME.format(0)
    assert {part: rows for source in sources for part, rows in source if part.startswith(name)} == {
        **{f"{name}[key.{head}]": MLA.kv_rank for head in range(3)},
        **{f"{name}[value.{head}]": MLA.value_dim for head in range(3)},
    }


def test_the_format_is_that_of_the_tensor():
    model = canonical()
    assert lowered(model, lambda name: FP32 if name == NAME.format(1) else W8A8_STATIC).matches == 2
    assert {str(node.name).split("/")[0] for node in model.graph if node.op_type == "Conv"} == {"layers.0"}


@pytest.mark.parametrize("sizes", [{"nope_dim": 10}, {"kv_rank": 14}, {"value_dim": 18}], ids=str)
def test_other_groups_stay_float32(sizes):
    """In both parts: a tensor is rounded as a whole."""
    spec = spec_with(sizes, head_dim=sizes.get("kv_rank", 16) + 8)
    model = canonical(spec)
    report = lowered(model, spec=spec)
    assert (report.matches, len(report.refused), count(model, "Conv")) == (0, 4, 0)
    assert "no multiple of 4" in report.refused[0]


@pytest.mark.parametrize("chosen", [W8A8, WeightFormat(8), WeightFormat(4)], ids=str)
def test_other_formats_are_refused(chosen):
    with pytest.raises(BadInputError, match=rf"kv_b_proj.* is to be {chosen}, .*: use w8a8-static or fp32"):
        lowered(canonical(), chosen)


def test_a_step_is_needed():
    with pytest.raises(BadInputError, match=r"\[value\] has no calibrated activation scale: calibrate this"):
        lowered(canonical(), calibrated=Calibrated({"key": 0.1}))
    model = canonical()
    with pytest.raises(BadInputError, match="no calibrated activation scale: export with --calibration"):
        apply_rewrite(static_head_products, model.graph, context(SPEC, W8A8_STATIC), required=False)


def test_linear_layers_and_other_products_are_left_alone():
    assert lowered(grouped()).matches == 0
    hand = Handmade()
    x = hand.input("x", 1, 3, "s", 8)
    hand.output(hand.b.op("MatMul", [x, hand.input("w", 3, 8, 4)]), "y", 1, 3, "s", 4)
    assert lowered(hand.model).matches == 0
