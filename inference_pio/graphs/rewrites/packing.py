"""What the packing rewrites share: linear layers that read the same value become one, followed by a Split."""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites.rewrite import LinearMatch, LoweringContext, NoMatchError, replace
from inference_pio.graphs.weights import stored_rows


def check_packable(linears: tuple[LinearMatch, ...], context: LoweringContext) -> None:
    """Raise NoMatchError unless the layers are different ones that agree in bias, sharing and weight format."""
    if len({linear.nodes[0] for linear in linears}) != len(linears):
        raise NoMatchError("one layer stands in two roles")
    if len({linear.bias is None for linear in linears}) != 1:
        raise NoMatchError("some of the layers have a bias and some have none")
    if any(_is_shared(linear) for linear in linears):
        raise NoMatchError("a weight is used elsewhere too")
    names = [name for linear in linears for name, _ in stored_rows(linear.weight).parts]
    if len({context.format_of(name) for name in names}) != 1:
        raise NoMatchError("the layers have different weight formats")


def _is_shared(linear: LinearMatch) -> bool:
    """Whether another node reads the weight, as it stands or transposed."""
    transposed = linear.nodes[0].inputs[1]
    return transposed is None or len(list(linear.weight.uses())) != 1 or len(list(transposed.uses())) != 1


def pack(graph: ir.Graph, linears: tuple[LinearMatch, ...], name: str) -> None:
    """Replace `linears` by one layer called `name` whose weight stacks theirs along the rows."""
    b = GraphBuilder(graph)
    weights = [stored_rows(linear.weight) for linear in linears]
    biases = [stored_rows(linear.bias) for linear in linears if linear.bias is not None]
    with b.before(linears[0].nodes[0]), b.scope(name):
        weight_NK = b.weight(f"{name}.weight", weights[0].stack(*weights[1:]))
        packed_BSN = b.op("MatMul", [linears[0].x, b.op("Transpose", [weight_NK], {"perm": [1, 0]})])
        if biases:
            bias_N = b.weight(f"{name}.bias", biases[0].stack(*biases[1:]))
            packed_BSN = b.op("Add", [packed_BSN, bias_N], name="bias")
        sizes = [rows.count for rows in weights]
        parts = b.ops("Split", [packed_BSN, b.const(sizes)], {"axis": -1}, len(sizes))
    for linear, part in zip(linears, parts, strict=True):
        replace(linear.output, part)
        for node in reversed(linear.nodes):
            graph.remove(node, safe=True)
