"""A conversation that stays within a budget of tokens and lets the prefix cache do its work from turn to turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from threading import Event
from typing import TYPE_CHECKING, Any

from inference_pio.errors import BadInputError
from inference_pio.runtime.result import Delta, FinishReason, Result, last_result
from inference_pio.runtime.sampling_params import SamplingParams
from inference_pio.runtime.values import checked_int

if TYPE_CHECKING:
    from inference_pio.runtime.engine import Engine

Message = Mapping[str, Any]

ANSWER_TOKENS = 512
"""Kept free for an answer where nothing else is said, but at most half of the context."""

KEPT_SHARE = 0.75
"""Of the budget, once something must be dropped.

Whatever follows a dropped turn moves, so its part of the prefix cache is lost. Dropping some turns ahead loses it once
in several turns; dropping no more than needed would lose it in each.
"""


class Conversation:
    """Messages and answers of one conversation; for one thread at a time.

    The system prompt is never dropped, nor is the turn at hand. Of the others whole turns, a user's message with
    everything up to the next one, go oldest first when the prompt would have more than `history_tokens` tokens, which
    is all of the context but `answer_tokens` (512) by default. `dropped_turns` counts them.
    """

    def __init__(
        self,
        engine: Engine,
        system: str | None = None,
        *,
        history_tokens: int | None = None,
        answer_tokens: int | None = None,
        params: SamplingParams | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
        thinking_budget: int | None = None,
    ) -> None:
        """`params`, `tools`, `thinking` and `thinking_budget` are those of `Engine.chat`.

        Raises BadInputError for impossible budgets.
        """
        context = engine.context_length
        answer = checked_int("answer_tokens", answer_tokens, least=1)
        most = context - (min(ANSWER_TOKENS, context // 2) if answer is None else answer)
        budget = checked_int("history_tokens", history_tokens, least=1)
        self.history_tokens = most if budget is None else budget
        if not 1 <= self.history_tokens <= most:
            raise BadInputError(
                f"the context of {context} tokens leaves {max(most, 0)} for the history beside the answer: lower "
                "history_tokens or answer_tokens"
            )
        self.dropped_turns = 0
        self._engine, self._tools = engine, tools
        self._thinking, self._thinking_budget = thinking, thinking_budget
        self._params = params or SamplingParams()
        self._system: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._turns: list[list[Message]] = []

    @property
    def messages(self) -> list[Message]:
        """What the next prompt begins with: the system prompt and the turns that are left."""
        return [*self._system, *(message for turn in self._turns for message in turn)]

    def ask(self, content: Any, params: SamplingParams | None = None, *, cancel: Event | None = None) -> Result:
        """The answer to a user's message, a text or a list of parts; see `stream`."""
        return last_result(self.stream(content, params, cancel=cancel))

    def stream(
        self, content: Any, params: SamplingParams | None = None, *, cancel: Event | None = None
    ) -> Iterator[Delta]:
        """As `ask`, yielding deltas.

        A turn counts once its answer is complete: one that fails, is cancelled or not read to its end leaves the
        conversation as it was. Raises BadInputError, at the call itself, when the system prompt and this message alone
        exceed the budget.
        """
        return self._answer([*self._turns, [{"role": "user", "content": content}]], params, cancel)

    def give_tool_results(
        self, results: Sequence[str], params: SamplingParams | None = None, *, cancel: Event | None = None
    ) -> Result:
        """Go on after an answer with tool calls; `results` has one text for each of them, in their order."""
        calls = self._turns[-1][-1].get("tool_calls", ()) if self._turns else ()
        if not calls or isinstance(results, str) or len(results) != len(calls):
            raise BadInputError(f"the last answer has {len(calls)} tool calls: pass a list with one result for each")
        replies: list[Message] = [
            {"role": "tool", "name": call["function"]["name"], "content": result}
            for call, result in zip(calls, results, strict=True)
        ]
        return last_result(self._answer([*self._turns[:-1], [*self._turns[-1], *replies]], params, cancel))

    def clear(self) -> None:
        """Forget everything but the system prompt."""
        self._turns, self.dropped_turns = [], 0

    def _answer(
        self, turns: list[list[Message]], params: SamplingParams | None, cancel: Event | None
    ) -> Iterator[Delta]:
        kept = self._fitting(turns)
        deltas = self._engine.stream_chat(
            self._flat(kept),
            params or self._params,
            tools=self._tools,
            thinking=self._thinking,
            thinking_budget=self._thinking_budget,
            cancel=cancel,
        )
        return self._recorded(deltas, kept, len(turns) - len(kept))

    def _recorded(self, deltas: Iterator[Delta], kept: list[list[Message]], dropped: int) -> Iterator[Delta]:
        for delta in deltas:
            result = delta.result
            if result is not None and result.finish_reason not in (FinishReason.CANCELLED, FinishReason.ERROR):
                self._turns = [*kept[:-1], [*kept[-1], answer_message(result)]]
                self.dropped_turns += dropped
            yield delta

    def _fitting(self, turns: list[list[Message]]) -> list[list[Message]]:
        """The newest of `turns` that fit: all of them, or those within the share of the budget that is kept."""
        size = self._size(turns)
        allowed = self.history_tokens if size <= self.history_tokens else int(KEPT_SHARE * self.history_tokens)
        while size > allowed and len(turns) > 1:
            turns = turns[1:]
            size = self._size(turns)
        if size > self.history_tokens:
            raise BadInputError(
                f"the system prompt and the turn at hand take {size} tokens of a budget of {self.history_tokens}: "
                "shorten them or raise history_tokens"
            )
        return turns

    def _size(self, turns: list[list[Message]]) -> int:
        return len(self._engine.chat_tokens(self._flat(turns), tools=self._tools, thinking=self._thinking))

    def _flat(self, turns: list[list[Message]]) -> list[Message]:
        return [*self._system, *(message for turn in turns for message in turn)]


def answer_message(result: Result) -> dict[str, Any]:
    """A result as the assistant's message of a conversation."""
    message: dict[str, Any] = {"role": "assistant", "content": result.text}
    if result.reasoning is not None:
        message["reasoning_content"] = result.reasoning
    if result.tool_calls:
        message["tool_calls"] = [{"type": "function", "function": call.to_dict()} for call in result.tool_calls]
    return message
