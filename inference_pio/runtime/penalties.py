"""Repetition, presence and frequency penalties on the tokens a request has seen, and on no others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from inference_pio.runtime.sampling_params import ResolvedSampling

# Beyond this a factor or penalty decides everything anyway, and float32 would overflow to 0 or infinity.
_EXTREME = 1e30
_MOST = np.finfo(np.float32).max


class Penalties:
    """Keeps the seen tokens with their counts in the answer, and adjusts their logits.

    Repetition (CTRL, https://arxiv.org/abs/1909.05858, as transformers applies it) covers prompt and
    answer: a positive logit is divided by it, a negative one multiplied. Presence is subtracted once from
    every token of the answer, frequency once per occurrence (OpenAI's definition).
    """

    def __init__(self, params: ResolvedSampling, prompt_ids: Sequence[int]) -> None:
        self._repetition = np.float32(min(max(params.repetition_penalty, 1 / _EXTREME), _EXTREME))
        self._presence = np.float32(min(params.presence_penalty, _EXTREME))
        self._frequency = np.float32(min(params.frequency_penalty, _EXTREME))
        self._repeats = params.repetition_penalty != 1.0
        self._counts_answer = params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
        self.active = self._repeats or self._counts_answer
        seen = np.unique(np.asarray(prompt_ids, dtype=np.int64)) if self._repeats else np.empty(0, np.int64)
        self._slots = {token: slot for slot, token in enumerate(seen.tolist())}
        self._ids = np.concatenate([seen, np.zeros(64, np.int64)])
        self._counts = np.zeros(self._ids.size, np.float32)

    @property
    def tokens(self) -> NDArray[np.int64] | None:
        """The tokens whose logits are adjusted, None when no penalty is set."""
        return self._ids[: len(self._slots)] if self.active else None

    def adjusted(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """What becomes of the logits of `tokens`."""
        return self._adjusted(raw, self._counts[: len(self._slots)])

    def count(self, token: int) -> None:
        """Note a token of the answer."""
        if not self.active:
            return
        slot = self._slots.setdefault(token, len(self._slots))
        if slot == self._ids.size:
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[slot] = token
        self._counts[slot] += 1

    @contextmanager
    def applied(self, logits: NDArray[np.float32]) -> Iterator[None]:
        """Adjust the seen tokens' logits in place for the duration of a with block.

        A token may be counted only outside the block.
        """
        if not self.active:
            yield
            return
        ids, counts = self._ids[: len(self._slots)], self._counts[: len(self._slots)]
        raw = logits[ids]
        logits[ids] = self._adjusted(raw, counts)
        try:
            yield
        finally:
            logits[ids] = raw

    def _adjusted(self, raw: NDArray[np.float32], counts: NDArray[np.float32]) -> NDArray[np.float32]:
        adjusted: NDArray[np.float32] = raw
        with np.errstate(over="ignore"):
            if self._repeats:
                adjusted = np.where(raw < 0, raw * self._repetition, raw / self._repetition)
            if self._counts_answer:
                penalty = self._frequency * counts + self._presence * np.sign(counts)
                adjusted = (adjusted - penalty).astype(np.float32, copy=False)
        return np.minimum(adjusted, _MOST)
