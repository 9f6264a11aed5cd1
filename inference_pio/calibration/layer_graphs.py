"""A canonical graph cut into its layers, by the builder's scopes: nodes called `layers.N/...` are layer N."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import onnx_ir as ir

from inference_pio.graphs.blocks.moe import DOMAIN as EXPERTS
from inference_pio.graphs.weights import recipe_of

SCOPE = re.compile(r"(?:layers|blocks)\.(\d+)/")
"""How the names of a layer's nodes begin."""


@dataclass(frozen=True)
class LayerGraph:
    """One layer: its nodes, what it reads (`hidden`, values shared by all layers, weights) and what it gives.

    `addend` is what images add to the layer's result, where they do.
    """

    index: int
    nodes: tuple[ir.Node, ...]
    hidden: ir.Value
    shared: tuple[ir.Value, ...]
    caches: tuple[ir.Value, ...]
    weights: tuple[ir.Value, ...]
    output: ir.Value
    experts: ir.Node | None = None
    """The call of the experts, which is left out: its result is one more input, its first input one of `nodes`'."""
    addend: ir.Value | None = None


@dataclass(frozen=True)
class Layers:
    """All layers of a model, the values that they share, and the table that the first hidden states come from."""

    layers: tuple[LayerGraph, ...]
    shared: tuple[ir.Value, ...]
    table: ir.Value
    """Of what the first hidden states are looked up in."""
    prelude: tuple[ir.Node, ...] = field(repr=False)


def cut(model: ir.Model) -> Layers:
    """The layers of a canonical decoder."""
    groups: dict[int, list[ir.Node]] = {}
    outside = []
    for node in model.graph:
        found = SCOPE.match(str(node.name))
        if found:
            groups.setdefault(int(found[1]), []).append(node)
        else:
            outside.append(node)
    layers, hidden = [], None
    for index in sorted(groups):
        layer = layer_of(index, groups[index], hidden)
        layers.append(layer)
        hidden = layer.output
    table = next(v for n in outside if n.op_type == "Gather" for v in n.inputs[:1] if v and recipe_of(v) is not None)
    shared = tuple(dict.fromkeys(value for layer in layers for value in layer.shared))
    return Layers(tuple(layers), shared, table, tuple(outside))


def layer_of(index: int, nodes: list[ir.Node], hidden: ir.Value | None, output: ir.Value | None = None) -> LayerGraph:
    """The layer that `nodes` make; `hidden` and `output` are found where they are not given."""
    experts = next((node for node in nodes if node.domain == EXPERTS), None)
    nodes = [node for node in nodes if node is not experts]
    own = {value for node in nodes for value in node.outputs}
    read = dict.fromkeys(v for node in nodes for v in node.inputs if v is not None and v not in own)
    weights = tuple(v for v in read if recipe_of(v) is not None)
    caches = tuple(v for v in read if v.is_graph_input() and v.const_value is None)
    addend = next((v for v in read if v.is_graph_input() and v.const_value is not None), None)
    constants = {v for v in read if v.const_value is not None and v not in weights}
    others = [v for v in read if v not in weights and v not in caches and v not in constants]
    if hidden is None:  # the first layer reads the looked-up rows, perhaps with images in their places
        hidden = next(v for v in others if (p := v.producer()) is not None and p.op_type in ("Gather", "Where"))
    added = () if experts is None else experts.outputs
    others = [value for value in others if value not in added]
    outputs = [v for v in own if any(user not in nodes and user is not experts for user, _ in v.uses())]
    if output is not None:
        outputs = [output]
    if len(outputs) != 1:
        raise ValueError(f"layer {index} has {len(outputs)} results that others read, not one")
    shared = tuple(v for v in others if v is not hidden)
    return LayerGraph(index, tuple(nodes), hidden, shared, caches, weights, outputs[0], experts, addend)
