"""What a rewrite is, how it is applied, and helpers for walking a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import onnx_ir as ir

from inference_pio.errors import BadInputError
from inference_pio.graphs.calibrated import CalibratedLinear, CalibratedWeights
from inference_pio.graphs.formats import FormatOf
from inference_pio.graphs.kv_scales import KvScales
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.graphs.weights import Rows, holds_rows, stored_rows


class NoMatchError(Exception):
    """Raised by a check: the node looks right but must not be rewritten, and why."""


@dataclass(frozen=True)
class Kernels:
    """What a target's kernels are like, where rewrites for several targets ask.

    `add_bias`: the blockwise product adds a bias as well. `fused_products`: an integer product takes unsigned
    activations and scales its result in one operator. `exact_bits`: widths of blocks whose product with exact
    activations is fast. `lookup_blocks`: a table in blocks can be looked up.
    `raw_experts`: quantized experts must say that their weights are in no layout of a kernel's own.
    """

    add_bias: bool = True
    fused_products: bool = True
    exact_bits: tuple[int, ...] = (4,)
    lookup_blocks: bool = True
    raw_experts: bool = False


@dataclass(frozen=True)
class LoweringContext:
    """What rewrites may ask for besides the graph; `head_step` is the calibrated step of a static head's input."""

    spec: DecoderSpec
    format_of: FormatOf
    context_length: int
    calibrated: CalibratedWeights | None = None
    kv_scales: Mapping[int, KvScales] | None = None
    head_step: float | None = None
    kernels: Kernels = field(default_factory=Kernels)
    compute: ir.DataType = ir.DataType.FLOAT

    def calibrated_linears(self, rows: Rows) -> list[CalibratedLinear]:
        """What calibration says about each tensor of a weight; empty where plain rounding applies.

        Raises BadInputError when it knows only some of them.
        """
        if self.calibrated is None:
            return []
        linears = [self.calibrated.linear(name) for name, _ in rows.parts]
        found = [linear for linear in linears if linear is not None]
        if found and len(found) != len(linears):
            raise BadInputError(f"the calibration holds only some of {rows.label}: calibrate this checkpoint again")
        return found


class Rewrite(Protocol):
    """A rewrite module: `pattern` finds candidates, `check` refuses some, `rewrite` replaces the rest."""

    __name__: str
    pattern: Callable[[ir.Node], Any]
    check: Callable[[Any, LoweringContext], None]
    rewrite: Callable[[ir.Graph, Any, LoweringContext], None]


@dataclass
class RewriteReport:
    """How often a rewrite matched, and where it was refused."""

    name: str
    matches: int = 0
    refused: list[str] = field(default_factory=list)


def apply_rewrite(module: Rewrite, graph: ir.Graph, context: LoweringContext, required: bool) -> RewriteReport:
    """Apply a rewrite at every match; raises BadInputError with the trace when a required one has none."""
    report = RewriteReport(module.__name__.rsplit(".", 1)[-1])
    for node in list(graph):
        if node.graph is None:
            continue  # an earlier match consumed it
        match = module.pattern(node)
        if match is None:
            continue
        try:
            module.check(match, context)
        except NoMatchError as refusal:
            report.refused.append(f"{node.name}: {refusal}")
            continue
        module.rewrite(graph, match, context)
        report.matches += 1
    if required and not report.matches:
        trace = "; ".join(report.refused[:5]) or "no node has the shape that it looks for"
        raise BadInputError(f"the model does not fit the target: rewrite {report.name} matched nothing ({trace})")
    return report


def producer(value: ir.Value | None, op_type: str, domain: str = "") -> ir.Node | None:
    """The node that makes `value`, when it is an `op_type`."""
    node = None if value is None else value.producer()
    return node if node is not None and (node.op_type, node.domain) == (op_type, domain) else None


def only_consumer(value: ir.Value, op_type: str, domain: str = "") -> ir.Node | None:
    """The single node that reads `value`, when there is just one and it is an `op_type`."""
    readers = list(value.consumers())
    if len(readers) != 1 or value.is_graph_output() or (readers[0].op_type, readers[0].domain) != (op_type, domain):
        return None
    return readers[0]


def check_scores(attention: ir.Node) -> None:
    """Raise NoMatchError for a canonical Attention whose mask is not all in its input, or whose scores are capped."""
    if attribute(attention, "is_causal", 0):
        raise NoMatchError("the causal mask is not explicit")
    if attribute(attention, "softcap", 0.0):
        raise NoMatchError("soft-capped scores")


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of `old` read `new`; a graph output keeps its name, type and place."""
    if old.is_graph_output():
        name, new.shape, new.type = old.name, old.shape, old.type
        old.name = f"{name}/replaced"
        new.name = name
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def prune(graph: ir.Graph) -> None:
    """Drop nodes and initializers that no output needs."""
    for node in reversed(list(graph)):
        if all(not list(v.uses()) and not v.is_graph_output() for v in node.outputs):
            graph.remove(node, safe=True)
    for name in [n for n, v in graph.initializers.items() if not list(v.uses()) and not v.is_graph_input()]:
        del graph.initializers[name]


def drop_unused_functions(model: ir.Model) -> None:
    """Drop functions that no node of the graph calls, directly or through another function, and their domains."""
    called = {node.op_identifier() for node in model.graph.all_nodes()}
    waiting = [model.functions[name] for name in called if name in model.functions]
    while waiting:
        inner = {node.op_identifier() for node in waiting.pop().all_nodes()} - called
        waiting += [model.functions[name] for name in inner if name in model.functions]
        called |= inner
    for name in [name for name in model.functions if name not in called]:
        del model.functions[name]
        if not any(domain == name[0] for domain, *_ in called):
            model.graph.opset_imports.pop(name[0], None)


@dataclass(frozen=True)
class LinearMatch:
    """`MatMul(x, Transpose(weight))`, perhaps followed by `Add(bias)`; both hold rows of the checkpoint."""

    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    nodes: tuple[ir.Node, ...]
    output: ir.Value


def match_linear(node: ir.Node) -> LinearMatch | None:
    """The canonical linear layer whose MatMul is `node`."""
    if (node.op_type, node.domain) != ("MatMul", ""):
        return None
    transpose = producer(node.inputs[1], "Transpose")
    if transpose is None or list(attribute(transpose, "perm", [])) != [1, 0]:
        return None
    x, weight = node.inputs[0], transpose.inputs[0]
    if x is None or weight is None or not holds_rows(weight, rank=2):
        return None
    add = only_consumer(node.outputs[0], "Add")
    bias = next((v for v in add.inputs if v is not None and _is_bias(v, weight)), None) if add else None
    last = add if bias is not None and add is not None else node
    return LinearMatch(x, weight, bias, tuple(dict.fromkeys((node, last))), last.outputs[0])


def _is_bias(value: ir.Value, weight: ir.Value) -> bool:
    return holds_rows(value, rank=1) and stored_rows(value).count == stored_rows(weight).count
