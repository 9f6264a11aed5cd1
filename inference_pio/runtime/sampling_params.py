"""What a caller asks of sampling, and what that means together with a checkpoint's own defaults."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from inference_pio.errors import BadInputError
from inference_pio.runtime.generation_defaults import GenerationDefaults
from inference_pio.runtime.values import (
    checked_bool,
    checked_float,
    checked_int,
    checked_strings,
    checked_token_ids,
)

DEFAULT_MAX_NEW_TOKENS = 1024
MAX_LOGPROBS = 20


@dataclass(frozen=True)
class ResolvedSampling:
    """Sampling with every field decided; made by `SamplingParams.resolve`.

    `temperature == 0` is greedy; `top_k == 0`, `top_p == 1`, `min_p == 0` and penalties of 1 (repetition)
    or 0 (presence, frequency) are off; `logprobs` is None when none are wanted. `stop_token_ids` ends
    generation and holds the end-of-sequence ids unless `ignore_eos`.
    """

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    stop: tuple[str, ...]
    stop_token_ids: frozenset[int]
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logprobs: int | None
    ignore_eos: bool
    n: int

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0.0


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen; None leaves a field to the artifact's generation_config.json, else greedy.

    Penalties follow transformers (repetition: prompt and answer, > 0, 1 is off) and OpenAI (presence,
    frequency: the answer alone, >= 0, 0 is off). `temperature=0` is greedy, `top_k=0` is off; `logprobs=N`
    asks for the chosen token's and the N best tokens' log-probabilities. `stop` and `stop_token_ids` come
    normalised to tuples. Raises BadInputError for a value of the wrong type, not finite or out of range.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | list[str] | str | None = None
    stop_token_ids: Iterable[int] | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: int | None = None
    ignore_eos: bool = False
    n: int = 1

    def __post_init__(self) -> None:
        checked = {
            "max_new_tokens": checked_int("max_new_tokens", self.max_new_tokens, least=1),
            "temperature": checked_float("temperature", self.temperature, least=0.0),
            "top_k": checked_int("top_k", self.top_k, least=0),
            "top_p": checked_float("top_p", self.top_p, above=0.0, most=1.0),
            "min_p": checked_float("min_p", self.min_p, least=0.0, most=1.0),
            "seed": checked_int("seed", self.seed, least=0),
            "stop": checked_strings("stop", self.stop),
            "stop_token_ids": checked_token_ids("stop_token_ids", self.stop_token_ids),
            "repetition_penalty": checked_float("repetition_penalty", self.repetition_penalty, above=0.0),
            "presence_penalty": checked_float("presence_penalty", self.presence_penalty, least=0.0),
            "frequency_penalty": checked_float("frequency_penalty", self.frequency_penalty, least=0.0),
            "logprobs": checked_int("logprobs", self.logprobs, least=0, most=MAX_LOGPROBS),
            "ignore_eos": checked_bool("ignore_eos", self.ignore_eos),
            "n": checked_int("n", self.n, least=1),
        }
        for name in ("ignore_eos", "n"):
            if checked[name] is None:
                raise BadInputError(f"{name} must have a value, not None: leave it out for its default")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def resolve(self, generation_config: Mapping[str, Any] | None, context_left: int) -> ResolvedSampling:
        """Decide every field; what this leaves open comes from `generation_config`, else it is greedy.

        A generation config counts as transformers reads it: without `do_sample` it is greedy, with it
        temperature, top_k and top_p default to 1.0, 50 and 1.0; its repetition penalty holds either way.
        Where it does not sample but the caller's temperature does, top_k, top_p and min_p are off unless
        one of the two names them. `max_new_tokens` defaults to the config's, else to 1,024, and is never
        more than `context_left`, the number of tokens that the context can still take. Without a seed one
        is drawn here, so the result can be repeated. Raises BadInputError when the context is full or the
        config holds an unusable value.
        """
        if context_left < 1:
            raise BadInputError(
                "the prompt fills the context and leaves no room for a new token: shorten it, or export and "
                "open the artifact with a longer context"
            )
        defaults = GenerationDefaults.read(generation_config or {})
        wanted = _first(self.max_new_tokens, defaults.max_new_tokens, DEFAULT_MAX_NEW_TOKENS)
        stop_ids = frozenset(self.stop_token_ids or ())
        return ResolvedSampling(
            max_new_tokens=min(wanted, context_left),
            temperature=_first(self.temperature, defaults.temperature, 0.0),
            top_k=_first(self.top_k, defaults.top_k, 0),
            top_p=_first(self.top_p, defaults.top_p, 1.0),
            min_p=_first(self.min_p, defaults.min_p, 0.0),
            seed=self.seed if self.seed is not None else secrets.randbits(63),
            stop=tuple(_first(self.stop, defaults.stop, ())),
            stop_token_ids=stop_ids if self.ignore_eos else stop_ids | defaults.eos_token_ids,
            repetition_penalty=_first(self.repetition_penalty, defaults.repetition_penalty, 1.0),
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logprobs=self.logprobs,
            ignore_eos=self.ignore_eos,
            n=self.n,
        )


def _first(*values: Any) -> Any:
    """The first value that is set."""
    return next(value for value in values if value is not None)
