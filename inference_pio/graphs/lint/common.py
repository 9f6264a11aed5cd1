"""Rules that several dialects ask with their own tables and limits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import onnx

from inference_pio.graphs.lint.element_types import STANDARD
from inference_pio.graphs.lint.loading import external_file
from inference_pio.graphs.lint.rule import Check, Objection
from inference_pio.graphs.lint.scope import Scope, given

TYPED_INPUT = {"Where": 1, "OneHot": 2, "If": None, "Loop": None, "Scan": None}
"""Inputs whose type an operator table speaks of, where it is not the first; None where there is no such input."""
BY_OUTPUT = {"Constant", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform"}
"""Operators whose type in a table is that of their output."""


@cache
def table(name: str) -> dict[str, Any]:
    """An operator table of this folder."""
    return json.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))


def operator_types(name: str) -> dict[str, frozenset[str]]:
    """The element types of each operator of a table, by `Name` or `domain::Name`."""
    types: dict[str, frozenset[str]] = {}
    for kinds, operators in table(name)["types"].items():
        types |= dict.fromkeys(operators.split(), frozenset(kinds.split()))
    return types


def key(node: Any) -> str:
    """A node's operator as tables spell it."""
    return node.op_type if node.domain in STANDARD else f"{node.domain}::{node.op_type}"


def opset(least: int, most: int, hint: str) -> Check:
    """The standard operators must be of these versions."""

    def check(scope: Scope) -> Iterator[Objection]:
        if scope.main and not least <= scope.opset <= most:
            yield None, f"imports opset {scope.opset}, and {least} to {most} are known: {hint}"

    return check


def known_operators(known: Collection[str], hint: str) -> Check:
    """Only operators of the table, and functions of the file itself."""

    def check(scope: Scope) -> Iterator[Objection]:
        local = {(function.domain, function.name) for function in scope.model.functions}
        for node in scope.nodes:
            if key(node) not in known and (node.domain, node.op_type) not in local:
                yield node, f"{key(node)} is not known: {hint}"

    return check


def operand_types(types: Mapping[str, frozenset[str]], aliases: Mapping[str, str], where: str) -> Check:
    """Operators of the table take the element types that it lists; `aliases` names types that are read as others."""

    def check(scope: Scope) -> Iterator[Objection]:
        for node in scope.nodes:
            name = _typed_value(node)
            dtype = scope.dtype(name) if name else None
            allowed = types.get(key(node))
            if dtype is not None and allowed is not None and aliases.get(dtype, dtype) not in allowed:
                yield node, f"{key(node)} of {dtype} is not {where}: cast to one of {', '.join(sorted(allowed))}"

    return check


def _typed_value(node: Any) -> str:
    if node.op_type in BY_OUTPUT:
        return next(iter(node.output), "")
    index = TYPED_INPUT.get(node.op_type, 0)
    return "" if index is None else given(node, index)


def value_types(allowed: Collection[str], hint: str) -> Check:
    """Every value, initializer, input and output has one of these element types."""

    def check(scope: Scope) -> Iterator[Objection]:
        for name in dict.fromkeys((*scope.initializers, *scope.types)):
            dtype = scope.dtype(name)
            if dtype is not None and dtype not in allowed:
                yield scope.producer(name), f"'{name}' is {dtype}, which is not known: {hint}"

    return check


def constant_inputs(inputs: Mapping[str, Mapping[int, str]]) -> Check:
    """These inputs (by operator, index and name) must be constants."""

    def check(scope: Scope) -> Iterator[Objection]:
        for node in scope.nodes:
            for index, name in inputs.get(key(node), {}).items():
                value = given(node, index)
                if value and not scope.is_constant(value):
                    yield node, f"'{name}' is computed ('{value}'): make it an initializer"

    return check


def volume(most: int) -> Check:
    """No tensor of known shape has more elements than this."""

    def check(scope: Scope) -> Iterator[Objection]:
        for name in dict.fromkeys((*scope.initializers, *scope.types)):
            elements = math.prod(size or 1 for size in scope.shape(name) or ())
            if elements > most:
                yield scope.producer(name), f"'{name}' has {elements} elements, more than {most}: split it"

    return check


def rank(most: int) -> Check:
    """No tensor has more dimensions than this."""

    def check(scope: Scope) -> Iterator[Objection]:
        for name in dict.fromkeys((*scope.initializers, *scope.types)):
            shape = scope.shape(name)
            if shape is not None and len(shape) > most:
                yield scope.producer(name), f"'{name}' has {len(shape)} dimensions, more than {most}: reshape it"

    return check


def uint8_at_the_border(scope: Scope) -> Iterator[Objection]:
    """UINT8 stands only in inputs that are cast to a float type and in outputs that come from such a cast."""
    graph = scope.model.graph
    inputs, outputs = ({value.name for value in values} for values in (graph.input, graph.output))
    for name in dict.fromkeys((*scope.initializers, *scope.types)) if scope.main else ():
        if scope.dtype(name) != "UINT8":
            continue
        made = scope.producer(name)
        cast_in = name in inputs and all(node.op_type == "Cast" for node in scope.consumers(name))
        cast_out = name in outputs and made is not None and made.op_type == "Cast" and not scope.consumers(name)
        if not cast_in and not cast_out:
            yield made, f"'{name}' is UINT8 inside the graph: only inputs and outputs that are cast may be"


def external_data(scope: Scope) -> Iterator[Objection]:
    """External tensors lie below the model's folder, in files that are there and long enough."""
    for name, tensor in scope.initializers.items():
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            found = external_file(tensor, scope.path)
            if not found.is_good:
                yield None, f"the external data of '{name}' in '{found.location}' {found.problem}: copy the file again"


def each(operator: str, judge: Callable[[Scope, Any], str | None]) -> Check:
    """Ask `judge` about every node of an operator; it returns what is wrong, or None."""

    def check(scope: Scope) -> Iterator[Objection]:
        for node in scope.nodes:
            problem = judge(scope, node) if key(node) == operator else None
            if problem:
                yield node, problem

    return check


def rank_of(scope: Scope, node: Any, index: int) -> int | None:
    """The number of dimensions of an input, None where it is absent or not known."""
    shape = scope.shape(given(node, index)) if given(node, index) else None
    return None if shape is None else len(shape)


def functions_refused(scope: Scope) -> Iterator[Objection]:
    """No model-local functions."""
    if scope.main and scope.model.functions:
        names = sorted({function.name for function in scope.model.functions})
        yield None, f"has functions ({', '.join(names[:4])}), which are not read: inline them"
