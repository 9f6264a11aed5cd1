"""What stands before and behind a value of an artifact's graph."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that makes a value, when it is an `op_type`."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type else None


def reader(value: ir.Value, op_type: str) -> ir.Node | None:
    """The first `op_type` that reads a value."""
    return next((node for node, _ in value.uses() if node.op_type == op_type), None)


def readers(value: ir.Value) -> Iterator[ir.Node]:
    """What reads a value, perhaps through a Cast."""
    for node, _ in value.uses():
        if node.op_type == "Cast":
            yield from readers(node.outputs[0])
        else:
            yield node


def before_casts(value: ir.Value | None) -> ir.Value | None:
    """The value that Casts made this one of."""
    while (cast := producer(value, "Cast")) is not None:
        value = cast.inputs[0]
    return value


def tensor_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """An initializer's tensor; None for any other value."""
    return None if value is None else value.const_value


def constant(value: ir.Value | None) -> np.ndarray | None:
    """An initializer's numbers, for small ones; None for any other value."""
    tensor = tensor_of(value)
    return None if tensor is None else tensor.numpy()
