"""RotaryEmbedding as products of the two channels of every pair with cos and sin rows."""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites.rewrite import LoweringContext, NoMatchError, attribute, producer, replace


def pattern(node: ir.Node) -> ir.Node | None:
    """A RotaryEmbedding without positions of its own."""
    return node if (node.op_type, node.domain, len(node.inputs)) == ("RotaryEmbedding", "", 3) else None


def check(match: ir.Node, context: LoweringContext) -> None:
    if attribute(match, "rotary_embedding_dim", 0):
        raise NoMatchError("a partial rotary embedding")


def rewrite(graph: ir.Graph, match: ir.Node, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    heads, interleaved = attribute(match, "num_heads"), bool(attribute(match, "interleaved", 0))
    x = match.inputs[0]
    assert x is not None
    by_head = _is_by_head(x)
    with b.before(match), b.scope(str(match.name)):
        rows = [_rows(b, value) for value in match.inputs[1:]]
        if not by_head:  # heads stand between tokens and channels
            x = b.op("Reshape", [x, b.const([0, 0, heads, -1])], name="heads")
            rows = [b.op("Unsqueeze", [value, b.const([-2])]) for value in rows]
        turned = _turn(b, x, rows, 2 * _pairs(match, context), interleaved)
        if not by_head:
            turned = b.op("Reshape", [turned, b.const([0, 0, -1])], name="side_by_side")
    replace(match.outputs[0], turned)
    graph.remove(match, safe=True)


def _turn(b: GraphBuilder, x: ir.Value, rows: list[ir.Value], channels: int, interleaved: bool) -> ir.Value:
    cos, sin = rows
    half = channels // 2
    if interleaved:
        pairs = b.op("Reshape", [x, b.const([0, 0, 0, half, 2])], name="pairs")
        parts = [b.op("Squeeze", [v, b.const([-1])]) for v in b.ops("Split", [pairs, b.const([1, 1])], {"axis": -1}, 2)]
    else:
        parts = list(b.ops("Split", [x, b.const([half, half])], {"axis": -1}, 2))
    first = b.op("Sub", [b.op("Mul", [parts[0], cos]), b.op("Mul", [parts[1], sin])], name="first")
    second = b.op("Add", [b.op("Mul", [parts[1], cos]), b.op("Mul", [parts[0], sin])], name="second")
    if not interleaved:
        return b.op("Concat", [first, second], {"axis": -1}, name="turned")
    columns = [b.op("Unsqueeze", [value, b.const([-1])]) for value in (first, second)]
    pairs = b.op("Concat", columns, {"axis": -1}, name="turned")
    return b.op("Reshape", [pairs, b.const([0, 0, 0, channels])], name="neighbours")


def _is_by_head(x: ir.Value) -> bool:
    """Whether `x` is [B, H, S, D], split off a Transpose that put the heads first, and not [B, S, H * D]."""
    split = producer(x, "Split")
    source = None if split is None else split.inputs[0]
    return producer(source, "Transpose") is not None


def _pairs(match: ir.Node, context: LoweringContext) -> int:
    """Channels that cos has: those of an input, or of a vision tower's head."""
    cos = match.inputs[1]
    assert cos is not None
    if cos.is_graph_input():
        return context.spec.rope.dim // 2
    assert context.spec.vision is not None
    return context.spec.vision.hidden_size // context.spec.vision.heads // 2


def _rows(b: GraphBuilder, value: ir.Value | None) -> ir.Value:
    """Rows [S, D / 2] without the axis of images that share them."""
    assert value is not None
    node = value.producer()
    expand = None if node is None else producer(node.inputs[0], "Expand")
    unsqueeze = None if expand is None else producer(expand.inputs[0], "Unsqueeze")
    if node is None or unsqueeze is None:
        return value
    if "rows" not in value.meta:
        value.meta["rows"] = b.op(node.op_type, [unsqueeze.inputs[0]], name=f"{node.op_type.lower()}_rows")
    found: ir.Value = value.meta["rows"]
    return found
