"""The generation loop: prefill on a fixed grid of chunks, then one token at a time.

Chunks and prefix blocks are the same grid, with the cache cold or warm, so a hit replays exactly the kernel calls
that a cold run makes after the cached part, and gives the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from inference_pio.runtime.backends.backend import Scores, Sequence
from inference_pio.runtime.prefix_cache import PrefixCache
from inference_pio.runtime.request import Request
from inference_pio.runtime.result import FinishReason, TokenLogprob
from inference_pio.runtime.sampler import Sampler, token_logprobs
from inference_pio.runtime.sequences import Turn

CHUNK_TOKENS = 128
"""Tokens of a prefill chunk and of a block of the prefix cache."""


@dataclass(frozen=True)
class Step:
    """A generated token, and why it is the last one if it is."""

    token: int
    logprob: TokenLogprob | None
    finish: FinishReason | None


def prefill(
    sequence: Sequence, request: Request, sampler: Sampler, cache: PrefixCache, turn: Turn
) -> tuple[Scores | None, int]:
    """Run the prompt: what its last position makes likely, and the number of tokens found in `cache`.

    Cached blocks are copied instead of computed; whole blocks that were computed are stored. The last token is always
    computed. The scores are None when the request was cancelled.
    """
    tokens, images = request.prompt_ids, request.images
    ids = np.asarray(tokens, np.int64)
    keys = tokens if images is None else images.cache_ids(tokens, CHUNK_TOKENS)
    with turn:
        sequence.reserve(len(tokens) + min(request.sampling.max_new_tokens, CHUNK_TOKENS))
        if images is not None:
            sequence.place(*images.positions())
        for payload in cache.match(keys, len(keys) - 1):
            sequence.restore(payload, sequence.length, sequence.length + CHUNK_TOKENS)
    cached, scores = sequence.length, None
    while sequence.length < len(tokens):
        if request.cancel.is_set():
            return None, cached
        start = sequence.length
        chunk = ids[start : start + CHUNK_TOKENS]
        stop = start + len(chunk)
        with turn:
            features = None if images is None else images.chunk(start, stop)
            scores = sequence.advance(chunk, sampler.query, features)
            if len(chunk) == CHUNK_TOKENS and cache.budget_bytes and not cache.contains(keys[:stop]):
                cache.put(keys[:stop], sequence.save(start, stop))
    return scores, cached


def decode(sequence: Sequence, scores: Scores, request: Request, sampler: Sampler, turn: Turn) -> Iterator[Step]:
    """Sample token after token from `scores` on, until the request is done; its thinking budget may force some."""
    sampling, thinking = request.sampling, request.thinking
    token_array = np.zeros(1, np.int64)
    for count in range(1, sampling.max_new_tokens + 1):
        forced = thinking.next_token() if thinking is not None else None
        token = sampler.sample(scores) if forced is None else sampler.take(forced)
        logprob = None if sampling.logprobs is None else token_logprobs(scores, token, sampling.logprobs)
        if token in sampling.stop_token_ids:
            yield Step(token, logprob, FinishReason.STOP)
            return
        if count == sampling.max_new_tokens:
            yield Step(token, logprob, FinishReason.LENGTH)
            return
        yield Step(token, logprob, None)
        if thinking is not None:
            thinking.add(token)
        if request.cancel.is_set():
            return
        token_array[0] = token
        with turn:
            scores = sequence.advance(token_array, sampler.query)
