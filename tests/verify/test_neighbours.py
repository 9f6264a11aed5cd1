"""What stands before and behind a value, with Casts between or without."""

import numpy as np
import onnx_ir as ir

from inference_pio.verify.neighbours import before_casts, constant, producer, reader, readers, tensor_of


def made_by(op_type: str, *inputs: ir.Value) -> ir.Value:
    return ir.Node("", op_type, inputs, num_outputs=1).outputs[0]


def test_casts_are_looked_through_both_ways():
    x = ir.Value(name="x")
    product = made_by("MatMul", x)
    wide = made_by("Cast", made_by("Cast", product))
    total = made_by("Add", wide)
    scaled = made_by("Mul", product)
    assert before_casts(wide) is product and before_casts(product) is product and before_casts(None) is None
    assert [node.op_type for node in readers(product)] == ["Add", "Mul"]
    assert reader(product, "Mul") is scaled.producer() and reader(product, "Add") is None
    assert producer(total, "Add") is total.producer()
    assert producer(total, "Mul") is producer(x, "Mul") is producer(None, "Mul") is None


def test_only_initializers_have_numbers():
    value = ir.Value(name="scale", const_value=ir.tensor(np.array([1.5], np.float32)))
    assert tensor_of(value) is value.const_value and constant(value) == [1.5]
    assert tensor_of(None) is tensor_of(ir.Value(name="x")) is constant(None) is None
