"""Sibling graphs inside nodes, such as the branches of an If, may use a name for different values; rules may not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def subgraphs(node: Any) -> Iterator[Any]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        yield from (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)


def defined(graph: Any) -> set[str]:
    """The names that a graph or function gives values: its inputs, initializers and results of nodes."""
    found = {value if isinstance(value, str) else value.name for value in graph.input}
    found |= {tensor.name for tensor in getattr(graph, "initializer", ())}
    return found | {name for node in graph.node for name in node.output if name}


def separate_siblings(graph: Any) -> None:
    """Rename, in place, what graphs inside the nodes of `graph` define under a name of one beside them.

    Their outputs keep their names, which a rule looks at; those of branches have the same types anyway.
    """
    _separate(graph, defined(graph), defined(graph))


def _separate(graph: Any, visible: set[str], taken: set[str]) -> None:
    for node in graph.node:
        for nested in subgraphs(node):
            own = defined(nested) - {value.name for value in nested.output}
            fresh = {name: _fresh(name, taken) for name in sorted(own & (taken - visible))}
            if fresh:
                _rename(nested, fresh)
                own = own - set(fresh) | set(fresh.values())
            taken |= own
            _separate(nested, visible | own, taken)


def _fresh(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}#{number}" in taken:
        number += 1
    return f"{name}#{number}"


def _rename(graph: Any, fresh: dict[str, str]) -> None:
    """Rename values in a graph and in those inside it."""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = fresh.get(value.name, value.name)
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name in fresh:
                    names[index] = fresh[name]
        for nested in subgraphs(node):
            _rename(nested, fresh)
