"""What a request gives back: text, tokens, why it ended, what it used and how long it took.

Every class has `to_dict()` with JSON-ready values: no NaN and no infinity, None in their place.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


class FinishReason(str, enum.Enum):
    """Why a request ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Usage:
    """Counts of tokens; `cached_tokens` of the prompt came from the prefix cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    def to_dict(self) -> dict[str, int]:
        """The counts by name."""
        return {
            "prompt_tokens": int(self.prompt_tokens),
            "completion_tokens": int(self.completion_tokens),
            "cached_tokens": int(self.cached_tokens),
        }


@dataclass(frozen=True)
class Timings:
    """Seconds spent in each phase of a request, and its rates in tokens per second.

    `decode_run_s` is the part of `decode_s` that the runtime library took; the rest is this package's own.
    """

    queue_s: float
    prefill_s: float
    decode_s: float
    time_to_first_token_s: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    decode_run_s: float = 0.0

    def to_dict(self) -> dict[str, float | None]:
        """The times and rates by name."""
        return {
            "queue_s": _finite(self.queue_s),
            "prefill_s": _finite(self.prefill_s),
            "decode_s": _finite(self.decode_s),
            "time_to_first_token_s": _finite(self.time_to_first_token_s),
            "prefill_tokens_per_s": _finite(self.prefill_tokens_per_s),
            "decode_tokens_per_s": _finite(self.decode_tokens_per_s),
            "decode_run_s": _finite(self.decode_run_s),
        }


@dataclass(frozen=True)
class TokenLogprob:
    """A token's natural log-probability, and the most likely tokens (id, log-probability) at its place."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """The token and its alternatives, best first."""
        alternatives = [{"token_id": int(token), "logprob": _finite(value)} for token, value in self.top]
        return {"token_id": int(self.token_id), "logprob": _finite(self.logprob), "top": alternatives}


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for: a function and its arguments, which are JSON values."""

    name: str
    arguments: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The name and the arguments."""
        return {"name": self.name, "arguments": self.arguments}


@dataclass(frozen=True)
class Result:
    """A finished request; `logprobs` has one entry per generated token when they were asked for.

    Of a chat: `text` is the answer without its `reasoning` (None where it has none) and without `tool_calls`;
    `tool_call_problems` says what is wrong with each malformed call, which stays in the text.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    logprobs: tuple[TokenLogprob, ...] | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_problems: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready values."""
        return {
            "text": self.text,
            "token_ids": [int(token) for token in self.token_ids],
            "finish_reason": self.finish_reason.value,
            "usage": self.usage.to_dict(),
            "timings": self.timings.to_dict(),
            "logprobs": _logprob_dicts(self.logprobs),
            "reasoning": self.reasoning,
            "tool_calls": [call.to_dict() for call in self.tool_calls],
            "tool_call_problems": list(self.tool_call_problems),
        }


@dataclass(frozen=True)
class Delta:
    """What one step of a stream adds; the last one has `finish_reason` and the whole `result`."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
    result: Result | None = None
    reasoning: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The step as JSON-ready values."""
        return {
            "text": self.text,
            "reasoning": self.reasoning,
            "token_ids": [int(token) for token in self.token_ids],
            "logprobs": _logprob_dicts(self.logprobs),
            "finish_reason": None if self.finish_reason is None else self.finish_reason.value,
            "result": None if self.result is None else self.result.to_dict(),
        }


def last_result(deltas: Iterable[Delta]) -> Result:
    """The result that the last of `deltas` carries."""
    result = None
    for delta in deltas:
        result = delta.result
    assert result is not None  # a stream that ends without one has raised
    return result


def rate(count: int, seconds: float) -> float:
    """Items per second; 0.0 where no time passed, so that a rate is always finite."""
    return count / seconds if seconds > 0 else 0.0


def _finite(value: float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _logprob_dicts(logprobs: tuple[TokenLogprob, ...] | None) -> list[dict[str, Any]] | None:
    return None if logprobs is None else [entry.to_dict() for entry in logprobs]
