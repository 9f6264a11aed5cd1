"""Draws the next token from logits; one sampler per answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference_pio.errors import BadInputError, InferencePioError
from inference_pio.runtime import selection
from inference_pio.runtime.candidates import Candidates, Query, candidate_logprobs, choices, greedy
from inference_pio.runtime.penalties import Penalties
from inference_pio.runtime.result import TokenLogprob
from inference_pio.runtime.sampling_params import ResolvedSampling

Floats = NDArray[np.float32]

# Temperatures outside these act like their limits (greedy, uniform) and would break float32 arithmetic.
_COLDEST, _HOTTEST = 1e-20, 1e30


class Sampler:
    """Chooses tokens for one answer and remembers what the penalties need.

    Order: repetition, presence and frequency penalties; then the first largest logit when greedy, else
    temperature, top_k, top_p, min_p and a draw. Each step means what transformers' logits processors mean
    (all ties at the k-th value stay), with probabilities of the scaled logits in float64 where few are
    left. `stream` tells the answers of one request apart: each has an independent generator, seeded by
    (seed, stream). Not for several threads at once.
    """

    def __init__(self, params: ResolvedSampling, vocab_size: int, prompt_ids: Sequence[int], stream: int = 0) -> None:
        if len(prompt_ids) and not 0 <= min(prompt_ids) <= max(prompt_ids) < vocab_size:
            raise BadInputError(f"the prompt holds a token id outside the vocabulary of {vocab_size}")
        self._params = params
        self._vocab_size = vocab_size
        self._penalties = Penalties(params, prompt_ids)
        self._temperature = min(max(params.temperature, _COLDEST), _HOTTEST)
        self._random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([params.seed, stream])))

    @property
    def query(self) -> Query:
        """What candidates must say for the next choice."""
        return Query((1.0,) if self._params.greedy else (self._temperature, 1.0), self._penalties.tokens)

    def sample(self, logits: Floats | Candidates) -> int:
        """The next token for float32 logits [vocabulary], or for candidates; it counts as generated from now on.

        Logits are changed while this runs and hold their former values when it returns; candidates that leave the
        choice open are asked for all of them. Raises InferencePioError when no choice is possible: NaN, a positive
        infinity, or nothing finite.
        """
        if isinstance(logits, Candidates):
            token = self._of_candidates(logits)
            if token is not None:
                self._penalties.count(token)
                return token
            logits = logits.fetch()
        self._check(logits)
        with self._penalties.applied(logits):
            token = self._greedy(logits) if self._params.greedy else self._drawn(logits)
        self._penalties.count(token)
        return token

    def take(self, token: int) -> int:
        """A token that something else chose; it counts as generated from now on, and nothing is drawn."""
        self._penalties.count(token)
        return token

    def distribution(self, logits: Floats) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The tokens that `sample` would choose among (ascending) and their probabilities; draws nothing."""
        self._check(logits)
        with self._penalties.applied(logits):
            if self._params.greedy:
                return np.array([self._greedy(logits)]), np.ones(1)
            softmax = selection.Softmax(finite_peak(logits), self._temperature)
            ids = self._candidates(logits, softmax)
            ids = np.arange(logits.size) if ids is None else ids
            weights = softmax.weights(logits[ids])
        return ids, weights / weights.sum()

    def _of_candidates(self, candidates: Candidates) -> int | None:
        if not candidates.sound:
            return None  # all logits say what is wrong
        adjusted = self._penalties.adjusted(candidates.seen_logits) if self._penalties.active else None
        if self._params.greedy:
            return greedy(candidates, adjusted)
        found = choices(candidates, adjusted, self._params, self._temperature)
        if found is None:
            return None
        ids, softmax, logits = found
        return int(ids[selection.draw(softmax.weights(logits), self._random.random())])

    def _greedy(self, logits: Floats) -> int:
        token = int(logits.argmax())
        _require_finite(float(logits[token]))
        return token

    def _drawn(self, logits: Floats) -> int:
        softmax = selection.Softmax(finite_peak(logits), self._temperature)
        ids = self._candidates(logits, softmax)
        uniform = self._random.random()
        if ids is None:
            return selection.draw(softmax.many_weights(logits), uniform)
        return int(ids[selection.draw(softmax.weights(logits[ids]), uniform)])

    def _candidates(self, logits: Floats, softmax: selection.Softmax) -> NDArray[np.int64] | None:
        """The tokens that top_k, top_p and min_p leave, ascending; None when all of them are off."""
        params = self._params
        ids = None
        if 0 < params.top_k < logits.size:
            ids = selection.top_k(logits, params.top_k)
        if params.top_p < 1.0:
            kept = selection.nucleus(logits if ids is None else logits[ids], softmax, params.top_p)
            ids = kept if ids is None else ids[kept]
        if params.min_p > 0.0:
            # The most likely token weighs 1, so min_p is a bound on the weight itself.
            floor = softmax.peak + softmax.temperature * math.log(params.min_p)
            ids = np.flatnonzero(logits >= floor) if ids is None else ids[logits[ids] >= floor]
        return ids

    def _check(self, logits: Floats) -> None:
        if logits.shape != (self._vocab_size,) or logits.dtype != np.float32:
            raise InferencePioError(
                f"the sampler needs float32 logits of shape ({self._vocab_size},), "
                f"not {logits.dtype} of shape {logits.shape}"
            )


def token_logprobs(logits: Floats | Candidates, token: int, top: int) -> TokenLogprob:
    """Natural log-probability of `token` and of the `top` most likely tokens (lower id first among equals).

    Of the model's own float32 logits [vocabulary], or candidates that answer a sampler's query, before penalties and
    temperature. Raises InferencePioError when the logits have no finite peak or the token lies outside them.
    """
    if isinstance(logits, Candidates):
        known = candidate_logprobs(logits, token, top) if logits.sound else None
        if known is not None:
            return known
        logits = logits.fetch()
    if not 0 <= token < logits.size:
        raise InferencePioError(f"token {token} lies outside the {logits.size} logits")
    softmax = selection.Softmax(finite_peak(logits), 1.0)
    log_total = math.log(float(softmax.many_weights(logits).sum(dtype=np.float64))) + softmax.peak
    best = selection.best(logits, top).tolist() if top else []
    return TokenLogprob(
        token_id=int(token),
        logprob=float(logits[token]) - log_total,
        top=tuple((place, float(logits[place]) - log_total) for place in best),
    )


def finite_peak(logits: Floats) -> float:
    """The largest logit; raises InferencePioError when it is infinite or any logit is NaN."""
    peak = float(logits.max())
    _require_finite(peak)
    return peak


def _require_finite(peak: float) -> None:
    if not math.isfinite(peak):
        found = "NaN" if math.isnan(peak) else "no finite value" if peak < 0 else "a positive infinity"
        raise InferencePioError(
            f"the model's logits hold {found}, so no token can be chosen: check the artifact with verify"
        )
