"""Fill-in-the-middle: code between a prefix and a suffix (Bavarian et al. 2022, arXiv:2207.14255).

Coder models were trained on it with tokens of their own, in the order prefix, suffix, middle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING

from inference_pio.errors import BadInputError
from inference_pio.runtime.sampling_params import SamplingParams
from inference_pio.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from inference_pio.runtime.engine import Engine
    from inference_pio.runtime.result import Result

PREFIX, SUFFIX, MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
_ENDS = (PREFIX, SUFFIX, "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|endoftext|>")
"""What a model writes once the middle is complete: the end of the file, or the beginning of another one."""


@dataclass(frozen=True)
class FillPrompt:
    """Token ids of a prompt for the middle, and the ids that end it besides those of the artifact."""

    token_ids: tuple[int, ...]
    stop_token_ids: tuple[int, ...]


def fill_prompt(tokenizer: Tokenizer, prefix: str, suffix: str) -> FillPrompt:
    """`<|fim_prefix|>prefix<|fim_suffix|>suffix<|fim_middle|>`; either text may be empty.

    Raises BadInputError when the tokenizer lacks one of the three tokens: its model was not trained on this.
    """
    ids = {token: tokenizer.token_to_id(token) for token in (PREFIX, SUFFIX, MIDDLE)}
    missing = [token for token, token_id in ids.items() if token_id is None]
    if missing:
        raise BadInputError(
            f"the tokenizer has no {missing[0]}, so the model cannot fill in a middle: use generate or chat"
        )
    before, after = (tokenizer.encode(text, add_special_tokens=False) for text in (prefix, suffix))
    tokens = (ids[PREFIX], *before, ids[SUFFIX], *after, ids[MIDDLE])
    ends = (tokenizer.token_to_id(token) for token in _ENDS)
    return FillPrompt(
        tuple(token for token in tokens if token is not None), tuple(token for token in ends if token is not None)
    )


def fill_in_the_middle(
    engine: Engine, prefix: str, suffix: str, params: SamplingParams | None = None, *, cancel: Event | None = None
) -> Result:
    """What stands between `prefix` and `suffix`; `n > 1` is for `generate`.

    Raises BadInputError as `fill_prompt` and `Engine.generate` do.
    """
    params = params or SamplingParams()
    if params.n != 1:
        raise BadInputError("fill_in_the_middle gives one answer: call it once per answer, n is 1")
    prompt = fill_prompt(engine.tokenizer, prefix, suffix)
    stops = (*(params.stop_token_ids or ()), *prompt.stop_token_ids)
    result = engine.generate(list(prompt.token_ids), replace(params, stop_token_ids=stops), cancel=cancel)
    assert not isinstance(result, list)  # one prompt, n = 1
    return result
