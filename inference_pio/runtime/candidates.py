"""Choosing a token from the few best logits, where the rest of the vocabulary stays on a device.

A graph with candidate outputs (see `graphs.rewrites.candidates`) gives the best logits, the sum of all weights, and the
logits of tokens that penalties are about. What lies outside of these is at most the last candidate, and penalties do
not touch it: where that bound decides the choice, the token is the one that all logits give; else they are fetched.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference_pio.runtime import selection
from inference_pio.runtime.result import TokenLogprob
from inference_pio.runtime.sampling_params import ResolvedSampling

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

LOST = 1e-3
"""Of the sum of weights, what must be left when penalised tokens are taken out of it; less would be rounding alone."""


@dataclass(frozen=True)
class Query:
    """What a sampler wants to know besides the best logits: sums of weights at temperatures, logits of tokens."""

    temperatures: tuple[float, ...] = (1.0,)
    seen: Ids | None = None


@dataclass(frozen=True)
class Candidates:
    """The answer to a `Query`: the best logits, best first, and what was asked for.

    `masses` are sums over the vocabulary of exp((logit - best) / temperature); `fetch` copies all logits, float32 [V].
    """

    size: int
    ids: Ids
    logits: Floats
    seen_ids: Ids
    seen_logits: Floats
    masses: Floats
    fetch: Callable[[], Floats]

    @property
    def bound(self) -> float:
        """No logit outside is larger; minus infinity when nothing is outside."""
        return -math.inf if self.ids.size == self.size else float(self.logits[-1])

    @property
    def sound(self) -> bool:
        """Whether the logits have a finite peak and hold no NaN."""
        return bool(np.isfinite(self.masses).all() and math.isfinite(float(self.logits[0])))

    def known(self, adjusted: Floats | None = None) -> tuple[Ids, Floats]:
        """Tokens, rising, and their logits; those of `seen_ids` replaced by `adjusted`."""
        if adjusted is None:
            ids, logits = self.ids, self.logits
        else:
            others = ~np.isin(self.ids, self.seen_ids)
            ids = np.concatenate([self.ids[others], self.seen_ids])
            logits = np.concatenate([self.logits[others], adjusted])
        order = np.argsort(ids)
        return ids[order], logits[order]


def greedy(candidates: Candidates, adjusted: Floats | None) -> int | None:
    """The first of the largest logits; None when it may lie outside of the candidates."""
    ids, logits = candidates.known(adjusted)
    best = int(logits.argmax())
    return int(ids[best]) if logits[best] > candidates.bound else None


def choices(
    candidates: Candidates, adjusted: Floats | None, params: ResolvedSampling, temperature: float
) -> tuple[Ids, selection.Softmax, Floats] | None:
    """The tokens that top_k, top_p and min_p leave (rising), their softmax and logits; None when undecided."""
    ids, logits = candidates.known(adjusted)
    softmax = selection.Softmax(float(logits.max()), temperature)
    limited = False
    if 0 < params.top_k < candidates.size:
        kept = selection.top_k(logits, params.top_k)
        if kept.size < params.top_k or logits[kept].min() <= candidates.bound:
            return None
        ids, logits, limited = ids[kept], logits[kept], True
    if params.top_p < 1.0:
        total = None if limited else _mass(candidates, adjusted, softmax)
        if not limited and total is None:
            return None
        kept = selection.nucleus(logits, softmax, params.top_p, total)
        reached = limited or softmax.weights(logits[kept]).sum() >= params.top_p * (total or 0.0)
        if not reached or (not limited and logits[kept].min() <= candidates.bound):
            return None
        ids, logits, limited = ids[kept], logits[kept], True
    if params.min_p > 0.0:
        floor = softmax.peak + softmax.temperature * math.log(params.min_p)
        if not limited and floor <= candidates.bound:
            return None
        kept = np.flatnonzero(logits >= floor)
        ids, logits, limited = ids[kept], logits[kept], True
    return (ids, softmax, logits) if limited else None


def candidate_logprobs(candidates: Candidates, token: int, top: int) -> TokenLogprob | None:
    """As `sampler.token_logprobs`; None when the token or one of the `top` best may lie outside."""
    ids, logits = candidates.known(candidates.seen_logits if candidates.seen_ids.size else None)
    place = np.flatnonzero(ids == token)
    best = selection.best(logits, top) if top else np.zeros(0, np.int64)
    if not place.size or best.size < top or (top and logits[best].min() <= candidates.bound):
        return None
    log_total = math.log(float(candidates.masses[-1])) + float(candidates.logits[0])
    return TokenLogprob(
        token_id=token,
        logprob=float(logits[place[0]]) - log_total,
        top=tuple((int(ids[at]), float(logits[at]) - log_total) for at in best),
    )


def _mass(candidates: Candidates, adjusted: Floats | None, softmax: selection.Softmax) -> float | None:
    """The sum of all weights of `softmax`; None when what is left of it is mostly rounding."""
    raw = selection.Softmax(float(candidates.logits[0]), softmax.temperature)
    mass = whole = float(candidates.masses[0])
    if adjusted is not None:
        mass -= float(raw.weights(candidates.seen_logits).sum())
        if mass < LOST * whole:
            return None
    mass *= math.exp(min((raw.peak - softmax.peak) / softmax.temperature, 700.0))
    return mass if adjusted is None else mass + float(softmax.weights(adjusted).sum())
