"""Logits of tokens that are given, on the grid of chunks that prompts run on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from inference_pio.runtime.generation import CHUNK_TOKENS
from inference_pio.runtime.inputs import checked_ids, unpad
from inference_pio.runtime.prompts import PromptReader
from inference_pio.runtime.sequences import Sequences
from inference_pio.runtime.vision.prompt import PromptImages


class TeacherForcing:
    """The logits of one engine's model; the methods raise BadInputError as `Engine.generate` does."""

    def __init__(self, prompts: PromptReader, sequences: Sequences, vocab_size: int, context_length: int) -> None:
        self._prompts, self._sequences = prompts, sequences
        self._vocab_size, self._context_length = vocab_size, context_length

    def row(self, token_ids: Any, images: Sequence[Any] = ()) -> Iterator[np.ndarray]:
        """Of one row of ids, a chunk of at most 128 positions at a time: float32 [chunk, vocabulary].

        Ids and images are checked at the call itself.
        """
        ids, placed = self._prompts.prompt(token_ids, images)
        ids = checked_ids(ids, self._vocab_size, self._context_length)
        self._sequences.check_open()
        return self._chunks(np.asarray(ids, np.int64), placed)

    def batch(self, token_ids: Any, attention_mask: Any) -> np.ndarray:
        """Of ids [B, S] padded on the right: float32 [B, S, vocabulary], zeros at the padding."""
        lists = unpad(token_ids, attention_mask)
        found = np.zeros((*np.shape(token_ids), self._vocab_size), np.float32)
        for row, ids in enumerate(lists):
            for start, rows in zip(range(0, len(ids), CHUNK_TOKENS), self.row(ids), strict=True):
                found[row, start : start + len(rows)] = rows
        return found

    def answer(self, messages: Sequence[Mapping[str, Any]], answer: Sequence[int]) -> np.ndarray:
        """Of an answer to a conversation: float32 [len(answer), vocabulary], row i of token i."""
        ids, placed = self._prompts.conversation(messages)
        whole = checked_ids([*ids, *answer[:-1]], self._vocab_size, self._context_length)
        chunks = self._chunks(np.asarray(whole, np.int64), placed)
        starts = range(0, len(whole), CHUNK_TOKENS)
        kept = [rows[max(len(ids) - 1 - start, 0) :].copy() for start, rows in zip(starts, chunks, strict=True)]
        return np.concatenate(kept)

    def _chunks(self, tokens: np.ndarray, images: PromptImages | None) -> Iterator[np.ndarray]:
        with self._sequences.use() as sequence:
            if images is not None:
                sequence.place(*images.positions())
            for start in range(0, len(tokens), CHUNK_TOKENS):
                chunk = tokens[start : start + CHUNK_TOKENS]
                with self._sequences.turn:
                    features = None if images is None else images.chunk(start, start + len(chunk))
                    rows = sequence.forward(chunk, len(chunk), features)
                yield rows if len(chunk) > 1 else rows.copy()
