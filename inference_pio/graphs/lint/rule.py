"""What a rule, a finding and a dialect are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from inference_pio.graphs.lint.scope import Scope

Objection = tuple[Any, str]
"""A node (None where the file as a whole is meant), and what is wrong with it and how to mend it."""
Check = Callable[[Scope], Iterator[Objection]]


@dataclass(frozen=True)
class Rule:
    """A named rule, where it is documented, and the check that yields objections."""

    name: str
    source: str
    check: Check


@dataclass(frozen=True)
class Finding:
    """One objection: the rule's name, the node (empty for the file as a whole) with its operator, and the sentence."""

    rule: str
    node: str
    operator: str
    message: str


@dataclass(frozen=True)
class Dialect:
    """What a runtime accepts: its name, the runtime in words, and the rules in the order in which they are asked."""

    name: str
    runtime: str
    rules: tuple[Rule, ...]
