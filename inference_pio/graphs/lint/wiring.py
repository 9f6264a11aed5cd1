"""Whether a file is a graph at all: every value is given once, before it is read, and operators have what they need.

Source: ONNX's IR specification and the operators' own schemas, https://onnx.ai/onnx/repo-docs/IR.html. Parsers sort
nodes themselves, so their order is free; a circle is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import onnx

from inference_pio.graphs.lint.element_types import STANDARD
from inference_pio.graphs.lint.names import subgraphs
from inference_pio.graphs.lint.rule import Objection
from inference_pio.graphs.lint.scope import Scope


def wiring(scope: Scope) -> Iterator[Objection]:
    """No value is missing or given twice, no node waits for itself, no operator lacks inputs or attributes."""
    yield from _values(scope.root, frozenset())
    for node in scope.nodes:
        schema = _schema(node, scope.opset)
        if schema is None:
            continue
        given = len(node.input)
        if not schema.min_input <= given <= schema.max_input:
            most = f" to {schema.max_input}" if schema.max_input != schema.min_input else ""
            yield node, f"has {given} inputs, and {schema.min_input}{most} are taken: export the file again"
        present = {attribute.name for attribute in node.attribute}
        lacking = [name for name, known in schema.attributes.items() if known.required and name not in present]
        if lacking:
            yield node, f"lacks the attribute '{min(lacking)}': export the file again"


def _values(graph: Any, outer: frozenset[str]) -> Iterator[Objection]:
    """Objections to the values of a graph or function that sees the names `outer`, and of the graphs inside it."""
    held = outer | _held(graph)
    made = Counter(name for node in graph.node for name in node.output if name)
    known = held | set(made)
    for node in graph.node:
        for name in node.output:
            if made[name] > 1 or (name and name in held):
                yield node, f"gives '{name}', which another node, an input or an initializer gives too: rename it"
        for name in dict.fromkeys(node.input):
            if name and name not in known:
                yield node, f"reads '{name}', which nothing gives: export the file again"
    for name in _names(graph.output):
        if name not in known:
            yield None, f"the output '{name}' is given by nothing: export the file again"
    waiting = _circle(list(graph.node), set(held))
    if waiting is not None:
        yield waiting, "waits for its own result: export the file again"
    for node in graph.node:
        for nested in subgraphs(node):
            yield from _values(nested, frozenset(known))


def _circle(nodes: list[Any], there: set[str]) -> Any:
    """A node that can never run, None where all can; values that nothing gives count as there."""
    made = {name for node in nodes for name in node.output if name}
    lacking = {id(node): {name for name in _reads(node) if name in made and name not in there} for node in nodes}
    readers: dict[str, list[Any]] = {}
    for node in nodes:
        for name in lacking[id(node)]:
            readers.setdefault(name, []).append(node)
    ready = [node for node in nodes if not lacking[id(node)]]
    ran = set()
    while ready:
        node = ready.pop()
        ran.add(id(node))
        for name in node.output:
            for reader in readers.pop(name, ()):
                lacking[id(reader)].discard(name)
                if not lacking[id(reader)]:
                    ready.append(reader)
    return next((node for node in nodes if id(node) not in ran), None)


def _reads(node: Any) -> Iterator[str]:
    """The values that a node needs, those that only graphs inside it read included."""
    yield from (name for name in node.input if name)
    for nested in subgraphs(node):
        own = _held(nested) | {name for inner in nested.node for name in inner.output}
        yield from (name for inner in nested.node for name in _reads(inner) if name not in own)
        yield from (name for name in _names(nested.output) if name not in own)


def _held(graph: Any) -> frozenset[str]:
    """What a graph or function has without a node: inputs and initializers."""
    held = set(_names(graph.input))
    for tensor in getattr(graph, "initializer", ()):
        held.add(tensor.name)
    for tensor in getattr(graph, "sparse_initializer", ()):
        held.add(tensor.values.name)
    return frozenset(held)


def _names(values: Any) -> Iterator[str]:
    """Inputs and outputs are names in a function, and have names in a graph."""
    return (value if isinstance(value, str) else value.name for value in values)


def _schema(node: Any, opset: int) -> Any:
    """The schema of a standard operator, None for others."""
    if node.domain not in STANDARD:
        return None
    try:
        return onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
