"""What a chat template tells about the answers to it: whether they reason, what switches that, how they call tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inference_pio.errors import BadInputError
from inference_pio.runtime import reasoning as thoughts
from inference_pio.runtime.result import Delta
from inference_pio.runtime.thinking_budget import ThinkingBudget
from inference_pio.runtime.tokenizer import Tokenizer
from inference_pio.runtime.tool_dialects import ToolDialect, find_dialect
from inference_pio.runtime.tool_reader import ToolCallReader
from inference_pio.runtime.tool_schema import parameter_types
from inference_pio.runtime.values import checked_int

_SWITCHES = ("enable_thinking", "thinking")
"""Names under which templates know the switch of the reasoning."""


@dataclass(frozen=True)
class ChatFormat:
    """`switch` is the template's variable that turns reasoning on and off, None where it has none.

    `reasons` says that answers may begin with reasoning between `<think>` and `</think>`; `dialect` is how
    answers write tool calls, None where the template shows no calls that we know.
    """

    switch: str | None
    reasons: bool
    dialect: ToolDialect | None

    @classmethod
    def read(cls, template: str, variables: frozenset[str]) -> ChatFormat:
        """The format of answers to a template that reads `variables`."""
        switch = next((name for name in _SWITCHES if name in variables), None)
        return cls(switch, thoughts.CLOSE in template, find_dialect(template))

    def variables(self, thinking: bool | None) -> dict[str, Any]:
        """The template's variables for reasoning on, off, or as the template has it by itself (None).

        Raises BadInputError where the template has no such switch.
        """
        if thinking is None:
            return {}
        if not isinstance(thinking, bool):
            raise BadInputError(f"thinking must be True, False or None, not {thinking!r}")
        if self.switch is None:
            raise BadInputError("this checkpoint's chat template has no switch for thinking: leave thinking out")
        return {self.switch: thinking}

    def budget(
        self, tokens: int | None, thinking: bool | None, ending: str, tokenizer: Tokenizer
    ) -> ThinkingBudget | None:
        """What ends the reasoning of the answer to a prompt that ends so after `tokens` tokens; None for no limit.

        Raises BadInputError for what is no count, and where there is no reasoning to limit.
        """
        limit = checked_int("thinking_budget", tokens, least=0)
        if limit is None:
            return None
        if not self.reasons:
            raise BadInputError("this checkpoint's chat template shows no reasoning: leave thinking_budget out")
        if thinking is False:
            raise BadInputError("thinking is off, so a thinking_budget limits nothing: leave one of the two out")
        return ThinkingBudget(limit, self._opened(ending), tokenizer)

    def answer(
        self, deltas: Iterator[Delta], ending: str, tools: Sequence[Mapping[str, Any]] | None
    ) -> Iterator[Delta]:
        """The deltas of the answer to a prompt that ends so, with reasoning and the calls of `tools` kept apart."""
        splitter = thoughts.ReasoningSplitter(self._opened(ending)) if self.reasons else None
        reader = ToolCallReader(self.dialect, parameter_types(tools)) if self.dialect and tools else None
        if splitter is None and reader is None:
            return deltas
        return _split(deltas, splitter, reader)

    def _opened(self, ending: str) -> bool:
        """Whether a prompt that ends so ends inside the reasoning."""
        return self.reasons and ending.rstrip().endswith(thoughts.OPEN)


def _split(
    deltas: Iterator[Delta], splitter: thoughts.ReasoningSplitter | None, reader: ToolCallReader | None
) -> Iterator[Delta]:
    thought, text = "", ""
    for delta in deltas:
        reasoning, piece = splitter.push(delta.text) if splitter else ("", delta.text)
        piece = reader.push(piece) if reader else piece
        if delta.result is None:
            yield replace(delta, text=piece, reasoning=reasoning)
            thought, text = thought + reasoning, text + piece
            continue
        more, rest = splitter.finish() if splitter else ("", "")
        reasoning += more
        piece += reader.push(rest) + reader.finish() if reader else rest
        result = replace(
            delta.result,
            text=text + piece,
            reasoning=thought + reasoning if splitter and splitter.found else None,
            tool_calls=tuple(reader.calls) if reader else (),
            tool_call_problems=tuple(reader.problems) if reader else (),
        )
        yield replace(delta, text=piece, reasoning=reasoning, result=result)
