"""Integer inputs become int32: TensorRT 8 makes int32 bindings of int64 inputs."""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError


def pattern(node: ir.Node) -> list[ir.Value] | None:
    """The int64 graph inputs that a node reads."""
    return [v for v in node.inputs if v is not None and v.is_graph_input() and v.dtype == ir.DataType.INT64] or None


def check(match: list[ir.Value], context: LoweringContext) -> None:
    """Indices and numbers to be cast may be of either type; anything else would need its partner changed too."""
    for node in {node for value in match for node in value.consumers()}:
        if node.op_type not in ("Gather", "Cast"):
            raise NoMatchError(f"a {node.op_type} reads it")


def rewrite(graph: ir.Graph, match: list[ir.Value], context: LoweringContext) -> None:
    for value in match:
        value.type = ir.TensorType(ir.DataType.INT32)
