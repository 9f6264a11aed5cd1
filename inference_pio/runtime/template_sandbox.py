"""jinja2's sandbox as transformers sets it up for chat templates, with limits on work and text.

The templates see the same helpers and render the same text; what would exhaust time or memory is refused. jinja2
alone limits neither loops within loops nor what an operator, a method or a filter makes of a small input.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes, pass_eval_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, markup_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from inference_pio.runtime.template_growth import check_brace_format, check_filter, check_method, check_operator
from inference_pio.runtime.template_limits import Meter

# Filters of jinja2 that make much of little or nothing twice alike, and that chat templates have no use for.
_LEFT_OUT = ("lipsum", "pprint", "random", "urlize", "wordwrap", "xmlattr")
# Filters that read a text as a whole; the others go through its characters one by one.
_TEXTUAL = frozenset(
    {"capitalize", "center", "e", "escape", "float", "forceescape", "format", "indent", "int", "lower", "replace"}
    | {"string", "striptags", "title", "tojson", "trim", "truncate", "upper", "urlencode", "wordcount"}
)
# Filters that only look at a part of their input.
_CONSTANT_TIME = frozenset({"attr", "count", "d", "default", "first", "items", "last", "length", "safe"})
# Names of the steps that the rewritten template goes through; no template can spell them.
_ITERATED, _MADE, _READ, _JOINED = "iterated ", "made ", "read ", "joined "


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The environment of chat templates. `meter` counts the rendering in progress: one at a time."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation])
        self.meter = Meter()
        self.finalize = self._finalized
        self.concat = self._concat  # type: ignore[method-assign]
        for name in _LEFT_OUT:
            self.filters.pop(name, None)
            self.globals.pop(name, None)
        self.filters["tojson"] = _tojson
        self.filters = {name: self._limited(name, function) for name, function in self.filters.items()}
        self.filters |= {_ITERATED: self._iterated, _MADE: self._made, _READ: self._read, _JOINED: self._joined}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        self.globals |= {"dict": _DictMaker(), "namespace": _TemplateNamespace}

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator, unless its result would be too large."""
        check_operator(self.meter, operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call, unless its result would be too large."""
        self.meter.call()
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, (str, bytes, int)):
            args = tuple(list(arg) if hasattr(arg, "__next__") else arg for arg in map(self.meter.iterated, args))
            check_method(self.meter, owner, obj.__name__, [*args, *kwargs.values()])
        elif isinstance(obj, LoopContext):
            args = tuple(map(self.meter.iterated, args))
        return self.meter.made(super().call(context, obj, *args, **kwargs))

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Refuse a private or changing attribute at once, even where it would print as nothing."""
        raise SecurityError(f"it uses {attribute!r} of a {type(obj).__name__}, which templates may not")

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """The `format` of a text, unless its result would be too large."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def limited(*args: Any, **kwargs: Any) -> str:
            check_brace_format(self.meter, value.__self__, [*args, *kwargs.values()])
            return wrapped(*args, **kwargs)

        return limited

    def _generate(
        self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False
    ) -> str:
        _Metering().visit(source)
        source.set_environment(self)
        return super()._generate(source, name, filename, defer_init)

    def _limited(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that counts what it reads and makes."""
        first = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def limited(*args: Any, **kwargs: Any) -> Any:
            if name not in _CONSTANT_TIME and len(args) > first:
                value = (self.meter.read if name in _TEXTUAL else self.meter.iterated)(args[first])
                value = list(value) if name == "join" and hasattr(value, "__next__") else value
                check_filter(self.meter, name, value, [*args[first + 1 :], *kwargs.values()])
                args = (*args[:first], value, *args[first + 1 :])
                return self.meter.made(function(*args, **kwargs))
            self.meter.spend(1)
            return function(*args, **kwargs)

        return limited

    def _finalized(self, value: Any) -> Any:
        return self.meter.made(value) if isinstance(value, (list, tuple, dict)) else value

    def _concat(self, pieces: Iterable[str]) -> str:
        texts = list(pieces)
        self.meter.allow(sum(map(len, texts)))
        return "".join(texts)

    def _iterated(self, value: Any) -> Any:
        return self.meter.iterated(value)

    def _made(self, value: Any) -> Any:
        return self.meter.made(value)

    def _read(self, value: Any) -> Any:
        return self.meter.read(value)

    @pass_eval_context
    def _joined(self, context: EvalContext, parts: tuple[Any, ...]) -> str:
        self.meter.made(parts)
        return markup_join(parts) if context.autoescape else "".join(map(str, parts))


class _Metering(NodeTransformer):
    """Puts a counting step around what loops go through, texts joined by ~, slices, comparisons and literals."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _through(_ITERATED, node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through(_JOINED, nodes.Tuple(node.nodes, "load", lineno=node.lineno))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _through(_READ, node.node)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        # The work is bounded by the right side: what is searched, or compared with.
        for operand in node.ops:
            operand.expr = _through(_READ, operand.expr)
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return _through(_MADE, self.generic_visit(node))

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return _through(_MADE, self.generic_visit(node))

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _through(_MADE, node) if node.ctx == "load" else node


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}` marks what the model wrote; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own class attribute)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _DictMaker:
    """`dict` for templates: what makes one, without the type itself."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


class _TemplateNamespace(Namespace):
    """A namespace without private names, and without a text: it may refer to itself."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        for name in dict(*args[1:], **kwargs):
            _check_public(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_public(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _through(name: str, node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _check_public(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"it stores {name!r} in a namespace, and names there may not begin with an underscore")


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of jinja2's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
