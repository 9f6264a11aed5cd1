"""Sixteen bits: which values are narrow, which stay wide, and that data and scales still come from one job."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from cuda_cases import lowered, session_of
from expert_cases import arrays_of as expert_arrays
from expert_cases import experts_spec
from graph_cases import FakeCheckpoint, Handmade, arrays_of, context, spec_with

from inference_pio.errors import BadInputError
from inference_pio.graphs.architectures import qwen3_moe
from inference_pio.graphs.formats import FP32, WeightFormat
from inference_pio.graphs.narrow import narrowed
from inference_pio.graphs.rewrites import half_precision, linear_kernels
from inference_pio.graphs.rewrites.rewrite import apply_rewrite, prune
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.targets import find_target
from inference_pio.graphs.weights import recipe_of

HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT
INT8 = WeightFormat(8).exact()


def halved(model: ir.Model, formats) -> None:
    apply_rewrite(half_precision, model.graph, replace(context(spec_with(), formats), compute=HALF), required=True)


def test_a_weight_that_stays_float32_keeps_its_product_wide(tmp_path):
    handmade = Handmade()
    x = handmade.input("past_key_values.0.x", 1, "s", 8)
    wide, narrow = (handmade.weight(name, 4, 8) for name in ("router", "layer"))
    both = handmade.b.op("Add", [handmade.b.op("Sigmoid", [handmade.linear(x, wide)]), handmade.linear(x, narrow)])
    handmade.output(both, "present.0.x", 1, "s", 4)
    formats = {"router": FP32, "layer": WeightFormat(16)}
    apply_rewrite(linear_kernels, handmade.model.graph, context(spec_with(), formats.__getitem__), required=True)
    prune(handmade.model.graph)
    halved(handmade.model, formats.__getitem__)
    kinds = [(node.op_type, node.inputs[0].dtype) for node in handmade.model.graph]
    assert [name for name, _ in kinds].count("Cast") == 2  # into the router, and its result's partner
    values = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 2, 8)
    (found,) = session_of(handmade.model, tmp_path).run(None, {"past_key_values.0.x": values.astype(np.float16)})
    router, layer = handmade.arrays["router"], handmade.arrays["layer"]
    expected = 1 / (1 + np.exp(-values @ router.T)) + values @ layer.T
    assert np.abs(found - expected).max() < 5e-3


def test_the_router_of_experts_is_float32():
    spec = experts_spec()
    dense = {name: array for name, array in arrays_of(spec).items() if ".mlp." not in name}
    model = qwen3_moe.build(spec, WeightSource(FakeCheckpoint(dense | expert_arrays(spec))))  # type: ignore[arg-type]
    formats = lambda name: FP32 if name.endswith("mlp.gate.weight") else INT8  # noqa: E731
    find_target("ort-cuda", "modern").lower(model, replace(context(spec, formats), compute=HALF))
    (experts,) = (node for node in model.graph if node.op_type == "QMoE")
    assert experts.attributes["weights_prepacked"].value == 0
    cast = experts.inputs[1].producer()
    assert cast.op_type == "Cast"
    product = cast.inputs[0].producer().inputs[0].producer()
    assert (product.op_type, product.inputs[1].dtype) == ("FusedMatMul", FLOAT)
    assert [experts.inputs[index].dtype for index in (3, 6)] == [HALF, HALF]


def test_data_and_scales_come_from_one_job():
    model, _ = lowered(spec_with(), INT8, "modern", HALF)
    product = next(node for node in model.graph if node.op_type == "MatMulNBits")
    data, scales = (recipe_of(value) for value in product.inputs[1:3])
    assert data.job == scales.job and (data.side, scales.side) == (False, True)
    lookup = next(node for node in model.graph if node.op_type == "GatherBlockQuantized")
    head = [node for node in model.graph if node.op_type == "MatMulNBits"][-1]
    assert recipe_of(lookup.inputs[0]).job == recipe_of(head.inputs[1]).job
    sizes = product.inputs[2].const_value.numpy()
    assert sizes.dtype == np.float16 and len(scales.evaluate()) == sizes.nbytes


def test_values_beyond_the_range():
    handmade = Handmade()
    weight = handmade.weight("huge", 2, 2)
    handmade.arrays["huge"][1, 1] = 1e6
    with pytest.raises(BadInputError, match=r"'huge' has values beyond the range of float16: .* bf16 or fp32"):
        recipe_of(narrowed(weight, HALF)).evaluate()
    kept = recipe_of(narrowed(weight, ir.DataType.BFLOAT16)).evaluate()
    exact = np.frombuffer(kept, ir.DataType.BFLOAT16.numpy()).astype(np.float32).reshape(2, 2)
    assert np.allclose(exact, handmade.arrays["huge"], rtol=2**-8)


def test_every_value_with_a_shape_has_a_type():
    """Values without one cannot be written, and onnx_ir warns about each."""
    model, _ = lowered(spec_with(), INT8, "modern", HALF)
    outputs = [value for node in model.graph for value in node.outputs]
    assert [value.name for value in outputs if value.shape is not None and value.type is None] == []
