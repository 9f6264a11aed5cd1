"""The token table leaves the graph: the host looks rows up, puts features of images in their places, and hands them in.

Addends of images become inputs that must be given, with a row per token.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.rewrites.rewrite import LoweringContext, attribute, only_consumer
from inference_pio.graphs.weights import holds_rows

HIDDEN_STATES = "hidden_states"


@dataclass(frozen=True)
class Match:
    """The value of the embedded tokens, with images where there are any."""

    embedded: ir.Value


def pattern(node: ir.Node) -> Match | None:
    """`Gather(rows of the checkpoint, input_ids)`, perhaps followed by `Where(image_mask, image_embeds, ...)`."""
    if (node.op_type, node.domain) != ("Gather", "") or attribute(node, "axis", 0) != 0:
        return None
    table, ids = node.inputs
    if not holds_rows(table, rank=2) or ids is None or not ids.is_graph_input():
        return None
    where = only_consumer(node.outputs[0], "Where")
    return Match(node.outputs[0] if where is None else where.outputs[0])


def check(match: Match, context: LoweringContext) -> None:
    """Every such lookup is replaced."""


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    width = context.spec.hidden_size
    hidden = b.input(HIDDEN_STATES, ir.DataType.FLOAT, [1, "sequence_length", width])
    match.embedded.replace_all_uses_with(hidden)
    for value in list(graph.inputs):
        if str(value.name).startswith("deepstack_embeds."):
            value.const_value = None
            graph.initializers.pop(str(value.name), None)
            value.shape = ir.Shape([1, "sequence_length", width])
