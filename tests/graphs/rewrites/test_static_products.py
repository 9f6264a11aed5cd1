"""Linear layers and the head between QuantizeLinear and DequantizeLinear."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import FP16, FP32, W8A8, W8A8_STATIC, WeightFormat
from inference_pio.graphs.rewrites import head_convolution, static_products
from inference_pio.graphs.rewrites.rewrite import apply_rewrite, prune
from inference_pio.graphs.rounding import round_channels

sys.path.insert(0, str(Path(__file__).parents[2]))
from graph_cases import Handmade, context
from static_cases import STEP, Calibrated


def two_layers() -> tuple[Handmade, ir.Value]:
    made = Handmade()
    x = made.input("x", 1, "rows", 24)
    for name in ("one", "two"):
        made.output(made.linear(x, made.weight(name, 16, 24)), f"{name}_out", 1, "rows", 16)
    return made, x


def apply(made: Handmade, module: object, chosen: WeightFormat = W8A8_STATIC, **changes: object) -> int:
    asked = replace(context(formats=chosen), **changes)
    report = apply_rewrite(module, made.model.graph, asked, required=False)  # type: ignore[arg-type]
    prune(made.model.graph)
    return report.matches


def run(made: Handmade, x: np.ndarray, **entries: str) -> list[np.ndarray]:
    made.model.graph.opset_imports[""] = 17
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = ir.to_proto(made.model).SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})


def activations() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 4, (1, 5, 24)).astype(np.float32)


@pytest.mark.parametrize("exact", [(), (3, 20)])
def test_the_product_is_that_of_the_rounded_values(exact):
    made, _ = two_layers()
    assert apply(made, static_products, calibrated=Calibrated(made, exact)) == 2
    x = activations()
    inner = x.copy()
    inner[..., list(exact)] = 0
    rounded = np.clip(np.rint(inner / np.float32(STEP)), -128, 127) * np.float32(STEP)
    assert np.abs(rounded - inner).max() > STEP  # the clip is at work
    for name, found in zip(("one", "two"), run(made, x), strict=True):
        weight = made.arrays[name].copy()
        weight[:, list(exact)] = 0
        codes, scales = round_channels(weight, clip=False)
        expected = rounded @ (codes * scales[:, None]).T
        expected += x[..., list(exact)] @ made.arrays[name][:, list(exact)].T
        assert np.abs(found - expected).max() < 1e-5


def test_products_that_read_one_value_round_it_once():
    made, x = two_layers()
    apply(made, static_products, calibrated=Calibrated(made))
    assert sum(node.op_type == "QuantizeLinear" for node in made.model.graph) == 1
    assert len(list(x.uses())) == 1


def test_explicit_quantization_is_as_the_parser_wants_it():
    made, _ = two_layers()
    made.arrays["one"][3] = 0  # a row of zeros has a scale all the same
    apply(made, static_products, calibrated=Calibrated(made))
    for node in made.model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert len(node.inputs) == 3
            scale, zero = (value.const_value.numpy() for value in node.inputs[1:])
            assert scale.dtype == np.float32 and (scale > 0).all()
            assert zero.dtype == np.int8 and zero.shape == scale.shape and not zero.any()


def test_floats_stay_and_other_formats_are_refused():
    made, _ = two_layers()
    assert apply(made, static_products, FP32) == 0
    for other in (W8A8, FP16, WeightFormat(8), WeightFormat(4)):
        with pytest.raises(BadInputError, match=rf"'one' is to be {other}, .*: use w8a8-static or fp32"):
            apply(made, static_products, other)
        with pytest.raises(BadInputError, match=rf"'head' is to be {other}, .*: use w8a8-static or fp32"):
            apply(head(), head_convolution, other)


@pytest.mark.parametrize("missing", ["calibration", "step"])
def test_a_step_is_needed(missing):
    made, _ = two_layers()
    calibrated = None if missing == "calibration" else Calibrated(made, step=None)
    with pytest.raises(BadInputError, match="one has no calibrated activation scale"):
        apply(made, static_products, calibrated=calibrated)


def head() -> Handmade:
    made = Handmade()
    logits = made.linear(made.input("x", 1, "rows", 24), made.weight("head", 40, 24))
    made.output(logits, "logits", 1, "rows", 40)
    return made


@pytest.mark.parametrize("chosen", [FP32, W8A8_STATIC])
def test_the_head_is_a_convolution_over_the_tables_rows(chosen):
    made, x = head(), activations()
    assert apply(made, head_convolution, chosen, head_step=STEP) == 1
    weight = made.arrays["head"]
    if chosen is W8A8_STATIC:
        codes, scales = round_channels(weight, clip=False)
        stored = next(v for n, v in made.model.graph.initializers.items() if n.endswith(".kernel"))
        assert np.array_equal(stored.const_value.numpy().reshape(40, 24), codes)
        weight, rounded = codes * scales[:, None], np.clip(np.rint(x / np.float32(STEP)), -128, 127) * np.float32(STEP)
    else:
        rounded = x
    (found,) = run(made, x)
    assert np.abs(found - rounded @ weight.T).max() < 1e-5


def test_a_head_without_a_step_is_refused():
    with pytest.raises(BadInputError, match="'head' has no calibrated activation scale"):
        apply(head(), head_convolution)


def test_another_output_is_no_head():
    made, _ = two_layers()
    assert apply(made, head_convolution, FP32) == 0
