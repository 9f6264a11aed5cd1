"""Cutting a lowered decoder into blocks of layers, the experts between them, and the head.

The cut follows the builder's names: the result of layer N is that of the node `layers.N/mlp/residual`. A block ends
after so many layers, and where a layer's experts are called: they run elsewhere, and what they give comes back as an
input of the next block. docs/tensorrt.md has the interface.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from inference_pio.errors import BadInputError
from inference_pio.graphs.blocks.moe import DOMAIN as EXPERTS
from inference_pio.graphs.parts import Part
from inference_pio.graphs.rewrites import expert_kernels, linear_kernels
from inference_pio.graphs.rewrites.host_embedding import HIDDEN_STATES
from inference_pio.graphs.rewrites.rewrite import LoweringContext, apply_rewrite, prune
from inference_pio.graphs.weights import recipe_of
from inference_pio.version import __version__

NEXT_HIDDEN, EXPERTS_INPUT, EXPERTS_OUTPUT = "next_hidden_states", "experts_input", "experts_output"
BLOCK_OPSET, BLOCK_IR_VERSION = 17, 8
"""What TensorRT 8.5 reads."""
EXPERTS_FORM = (21, 10)
"""Opset and IR version of experts: also read by ONNX Runtime 1.23, the last for Python 3.10."""
QUANTIZED_EXPERTS_NEED = ("onnxruntime", "1.31")
BLOCK_PARAMETERS = 420_000_000
"""Weights of a block: building takes about 10 bytes of host memory for each (6.9 GiB were measured for 769 million, in
TensorRT 10), of which a host with 8 GB has about 4 GB to spare. Four layers of a 4B model."""

_LAYER = re.compile(r"layers\.(\d+)/")


@dataclass
class _Cut:
    """Where the next block begins: the values that become its inputs, by name, and the layers it has so far."""

    inputs: dict[str, ir.Value]
    layers: list[int] = field(default_factory=list)


def cut_blocks(
    model: ir.Model,
    context: LoweringContext,
    block_layers: int | None,
    opset: int = BLOCK_OPSET,
    ir_version: int = BLOCK_IR_VERSION,
) -> list[Part]:
    """Blocks, experts and head in the order in which they run; `block_layers` None goes by BLOCK_PARAMETERS.

    Raises BadInputError when `block_layers` is outside 1 to the number of layers.
    """
    layers = context.spec.layers
    if block_layers is not None and not 1 <= block_layers <= layers:
        raise BadInputError(f"--block-layers {block_layers} is outside 1 to {layers}, the layers of the model")
    limit = block_layers or max(1, BLOCK_PARAMETERS // _largest_layer(model))
    cutter = _Cutter(model, context, opset, ir_version)
    for layer in range(layers):
        cutter.take(layer, limit)
    return cutter.finish()


class _Cutter:
    """Collects parts from the first layer on."""

    def __init__(self, model: ir.Model, context: LoweringContext, opset: int, ir_version: int) -> None:
        self._version = opset, ir_version
        self._graph, self._context = model.graph, context
        self._nodes = {str(node.name): node for node in model.graph}
        self._experts = {_layer_of(node): node for node in model.graph if node.domain == EXPERTS}
        self._presents = {str(value.name): value for value in model.graph.outputs}
        hidden = next(value for value in model.graph.inputs if value.name == HIDDEN_STATES)
        self._cut = _Cut({HIDDEN_STATES: hidden})
        self._parts: list[Part] = []

    def take(self, layer: int, limit: int) -> None:
        """Add a layer to the block, and end the block when it is full or experts follow."""
        self._cut.layers.append(layer)
        residual, experts = self._nodes[f"layers.{layer}/mlp/residual"], self._experts.get(layer)
        if experts is not None:
            mixed = experts.outputs[0]
            hidden = next(value for value in residual.inputs if value is not mixed)
            self._end_block({NEXT_HIDDEN: hidden, EXPERTS_INPUT: experts.inputs[0]})
            self._parts.append(self._experts_part(layer, experts))
            self._cut = _Cut({HIDDEN_STATES: hidden, EXPERTS_OUTPUT: mixed})
        elif len(self._cut.layers) == limit or layer == self._context.spec.layers - 1:
            self._end_block({NEXT_HIDDEN: residual.outputs[0]})
            self._cut = _Cut({HIDDEN_STATES: residual.outputs[0]})

    def finish(self) -> list[Part]:
        """All parts, the head last."""
        head = self._extract(self._cut.inputs, {"logits": self._presents["logits"]}, *self._version)
        return [*self._parts, Part("head", "head.onnx", head)]

    def _end_block(self, outputs: dict[str, ir.Value | None]) -> None:
        layers, number = self._cut.layers, sum(part.role == "block" for part in self._parts)
        presents = {n: v for n, v in self._presents.items() if n.split(".")[0] == "present" and _number(n) in layers}
        model = self._extract(self._cut.inputs, {**outputs, **presents}, *self._version)
        self._parts.append(Part("block", f"block-{number:02d}.onnx", model, tuple(layers)))

    def _experts_part(self, layer: int, node: ir.Node) -> Part:
        """Router and experts, lowered for ONNX Runtime's CPU."""
        assert node.inputs[0] is not None
        model = self._extract({EXPERTS_INPUT: node.inputs[0]}, {EXPERTS_OUTPUT: node.outputs[0]}, *EXPERTS_FORM)
        for step in (expert_kernels, linear_kernels):
            apply_rewrite(step, model.graph, self._context, required=True)
            prune(model.graph)
        quantized = any(node.op_type == "QMoE" for node in model.graph)
        requires = (QUANTIZED_EXPERTS_NEED,) if quantized else ()
        return Part("experts", f"experts-{layer:02d}.onnx", model, (layer,), requires)

    def _extract(
        self, inputs: Mapping[str, ir.Value], outputs: Mapping[str, ir.Value | None], opset: int, ir_version: int
    ) -> ir.Model:
        width = self._context.spec.hidden_size
        for value in (*inputs.values(), *outputs.values()):
            assert value is not None
            if value.shape is None:
                value.shape = ir.Shape([1, "sequence_length", width])
                value.type = ir.TensorType(ir.DataType.FLOAT)
        graph = extract(self._graph, inputs, {name: value for name, value in outputs.items() if value}, opset)
        facts = {"ir_version": ir_version, "producer_name": "inference-pio", "producer_version": __version__}
        return ir.Model(graph, **facts)


def extract(graph: ir.Graph, inputs: Mapping[str, ir.Value], outputs: Mapping[str, ir.Value], opset: int) -> ir.Graph:
    """A copy of what makes `outputs` out of `inputs` and of the graph's own inputs; weights stay lazy.

    Both are given new names; graph inputs that nothing reads are left out.
    """
    stops = set(inputs.values())
    needed, nodes = set(outputs.values()) - stops, list[ir.Node]()
    for node in reversed(list(graph)):
        if any(value in needed for value in node.outputs):
            nodes.insert(0, node)
            needed |= {value for value in node.inputs if value is not None and value not in stops}
    copies = {value: _copy(value, name) for name, value in inputs.items()}
    own = [value for value in graph.inputs if value in needed]
    copies |= {value: _copy(value, str(value.name)) for value in own}
    initializers = [value for value in graph.initializers.values() if value in needed]
    copies |= {value: _copy(value, str(value.name)) for value in initializers}
    made = []
    for node in nodes:
        taken = [None if value is None else copies[value] for value in node.inputs]
        new = ir.Node(
            node.domain, node.op_type, taken, node.attributes.values(), num_outputs=len(node.outputs), name=node.name
        )
        for old, value in zip(node.outputs, new.outputs, strict=True):
            value.name, value.shape, value.type = old.name, old.shape, old.type
            copies[old] = value
        made.append(new)
    for name, value in outputs.items():
        copies[value].name = name
    used = {value for node in made for value in node.inputs}
    return ir.Graph(
        [copies[value] for value in (*inputs.values(), *own) if copies[value] in used],
        [copies[value] for value in outputs.values()],
        nodes=made,
        initializers=[copies[value] for value in initializers],
        opset_imports={"": opset},
        name="main",
    )


def _copy(value: ir.Value, name: str) -> ir.Value:
    copy = ir.Value(name=name, shape=value.shape, type=value.type, const_value=value.const_value)
    if recipe_of(value) is not None:
        copy.meta["recipe"] = recipe_of(value)
    return copy


def _largest_layer(model: ir.Model) -> int:
    """Elements of the weights of the largest layer, experts aside."""
    sizes: dict[int, int] = {}
    seen = set()
    for node in model.graph:
        if node.domain == EXPERTS or not _LAYER.match(str(node.name)):
            continue
        for value in node.inputs:
            if recipe_of(value) is not None and value not in seen and value is not None and value.shape is not None:
                seen.add(value)
                sizes[_layer_of(node)] = sizes.get(_layer_of(node), 0) + math.prod(value.shape.numpy())
    return max(sizes.values())


def _layer_of(node: ir.Node) -> int:
    found = _LAYER.match(str(node.name))
    return int(found[1]) if found else -1


def _number(name: str) -> int:
    return int(name.split(".")[1])
