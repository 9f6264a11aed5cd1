"""Attention among the patches of an image with heads in a dimension of their own: the form that TensorRT fuses.

Fused, its memory grows with the patches, not with their square.
"""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites import vision_attention_parts
from inference_pio.graphs.rewrites.rewrite import LoweringContext, attribute, replace

pattern, check = vision_attention_parts.pattern, vision_attention_parts.check


def rewrite(graph: ir.Graph, match: ir.Node, context: LoweringContext) -> None:
    b, heads = GraphBuilder(graph), attribute(match, "q_num_heads")
    with b.before(match), b.scope(str(match.name)):
        inputs = []
        for x_IPC in match.inputs:
            x_IPHD = b.op("Reshape", [x_IPC, b.const([0, 0, heads, -1])])
            inputs.append(b.op("Transpose", [x_IPHD], {"perm": [0, 2, 1, 3]}, name="heads"))
        y_IHPD = b.op("Attention", inputs, {"scale": attribute(match, "scale")}, name="seen")
        y_IPHD = b.op("Transpose", [y_IHPD], {"perm": [0, 2, 1, 3]})
        y_IPC = b.op("Reshape", [y_IPHD, b.const([0, 0, -1])], name="side_by_side")
    replace(match.outputs[0], y_IPC)
    graph.remove(match, safe=True)
