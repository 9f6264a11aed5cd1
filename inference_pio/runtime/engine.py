"""The engine: opens an artifact and answers requests; threads may share it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any

import numpy as np

from inference_pio.errors import BadInputError
from inference_pio.runtime.answer import answer_deltas
from inference_pio.runtime.config import EngineConfig
from inference_pio.runtime.inputs import checked_ids, split_prompts
from inference_pio.runtime.open_artifact import OpenArtifact, open_artifact
from inference_pio.runtime.prompts import Prepared, PromptReader, checked_images
from inference_pio.runtime.request import Request
from inference_pio.runtime.result import Delta, Result, last_result
from inference_pio.runtime.sampling_params import SamplingParams
from inference_pio.runtime.teacher_forcing import TeacherForcing

ENDING_TOKENS = 16
"""Of a chat's prompt, in which it shows whether the reasoning was opened."""


class Engine:
    """An open artifact. Use it as a context manager or call `close`."""

    def __init__(self, opened: OpenArtifact) -> None:
        """`open` makes one from the path of an artifact."""
        self._opened, self._sequences, self._vocab_size = opened, opened.sequences, opened.vocab_size
        self.path, self.manifest, self.tokenizer = opened.path, opened.manifest, opened.tokenizer
        self.prefix_cache, self.context_length = opened.prefix_cache, opened.context_length
        self.vision = opened.vision
        """What prepares images, where the model takes any."""
        self._prompts = PromptReader(self.path, self.tokenizer, self.vision, self._vocab_size)
        self._forcing = TeacherForcing(self._prompts, self._sequences, self._vocab_size, self.context_length)

    @classmethod
    def open(cls, path: str | os.PathLike[str], config: EngineConfig | None = None) -> Engine:
        """Open an artifact folder.

        Small files are hashed every time, the weights at their first open (in a thread beside loading) or always,
        as `config.verify_hashes` says. Raises BadInputError when the artifact is broken, was changed, needs other
        software, or failed its verification (unless `allow_failed`); ResourceLimitError when `max_memory` is too
        small for it.
        """
        return cls(open_artifact(Path(path), config or EngineConfig()))

    def generate(
        self,
        prompts: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]],
        params: SamplingParams | None = None,
        *,
        images: Sequence[Any] = (),
        cancel: Event | None = None,
    ) -> Result | list[Result]:
        """Continue a prompt (text or token ids), or each of a list of them.

        Returns a `Result` for one prompt; for a list, or `n > 1`, a list with the `n` results of each prompt in
        turn. Text is tokenized as the checkpoint's tokenizer does, without a template. `images` (paths, Pillow images,
        uint8 arrays) belong to the placeholders of a single prompt, one each. Setting `cancel` ends the request after
        the current step. Raises BadInputError for empty prompts, prompts beyond the context, token ids outside the
        vocabulary, and images that cannot be used.
        """
        params = params or SamplingParams()
        items, single = split_prompts(prompts)
        if not single and checked_images(images):
            raise BadInputError("images go with a single prompt: call generate once per prompt")
        prepared = [self._prompts.prompt(item, images) for item in items]
        requests = [self._request(each, params, index, cancel) for each in prepared for index in range(params.n)]
        results = [last_result(self._run(request)) for request in requests]
        return results[0] if single and params.n == 1 else results

    def stream(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None = None,
        *,
        images: Sequence[Any] = (),
        cancel: Event | None = None,
    ) -> Iterator[Delta]:
        """Continue one prompt, yielding text as it is certain; the last delta carries the `Result`.

        Text never ends inside a UTF-8 character or inside what may become a stop string. Closing the iterator, or
        setting `cancel`, ends the request. Raises BadInputError as `generate` does, at the call itself.
        """
        params = params or SamplingParams()
        items, single = split_prompts(prompt)
        if not single or params.n != 1:
            raise BadInputError("stream takes one prompt and n=1: call it once per answer")
        return self._run(self._request(self._prompts.prompt(items[0], images), params, 0, cancel))

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
        thinking_budget: int | None = None,
        cancel: Event | None = None,
    ) -> Result:
        """Answer a conversation through the checkpoint's chat template; `n > 1` is for `generate`.

        `thinking` turns the reasoning on or off where the template has a switch for it, and `thinking_budget` ends it
        after so many tokens. Where the template shows reasoning, the result keeps that apart from the text; with
        `tools` it holds the calls of the answer as well. Contents may be lists of parts with images and videos; see
        `runtime.vision.messages`.
        """
        how: dict[str, Any] = {"tools": tools, "thinking": thinking, "thinking_budget": thinking_budget}
        return last_result(self.stream_chat(messages, params, **how, cancel=cancel))

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
        thinking_budget: int | None = None,
        cancel: Event | None = None,
    ) -> Iterator[Delta]:
        """As `chat`, yielding deltas as `stream` does."""
        params = params or SamplingParams()
        if params.n != 1:
            raise BadInputError("a conversation has one answer at a time: use n=1, and call again for another")
        prepared, how = self._prompts.conversation(messages, tools, thinking), self._prompts.template.format
        ending = self.tokenizer.decode(prepared[0][-ENDING_TOKENS:], skip_special_tokens=False)
        budget = how.budget(thinking_budget, thinking, ending, self.tokenizer)
        deltas = self._run(replace(self._request(prepared, params, 0, cancel), thinking=budget))
        return how.answer(deltas, ending, tools)

    def chat_tokens(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
    ) -> list[int]:
        """The token ids that `chat` would run for a conversation."""
        return self._prompts.conversation(messages, tools, thinking)[0]

    def logits(self, token_ids: Any, attention_mask: Any = None, images: Sequence[Any] = ()) -> np.ndarray:
        """Teacher-forced logits: for ids [len] float32 [len, vocabulary].

        With `images`, every placeholder among the ids becomes the tokens of its image, and `len` grows. With an
        `attention_mask`, ids [B, S] padded on the right give float32 [B, S, vocabulary], zeros at the padding; a
        left-padded batch is refused. Raises BadInputError as `generate` does.
        """
        if attention_mask is None:
            return np.concatenate(list(self.stream_logits(token_ids, images)))
        if checked_images(images):
            raise BadInputError("images go with one row of token ids: leave the attention mask out")
        return self._forcing.batch(token_ids, attention_mask)

    def answer_logits(self, messages: Sequence[Mapping[str, Any]], answer: Sequence[int]) -> np.ndarray:
        """Teacher-forced logits of an answer to a conversation: float32 [len(answer), vocabulary], row i of token i."""
        return self._forcing.answer(messages, answer)

    def stream_logits(self, token_ids: Any, images: Sequence[Any] = ()) -> Iterator[np.ndarray]:
        """As `logits` of one row of ids, a chunk of at most 128 positions at a time: float32 [chunk, vocabulary]."""
        return self._forcing.row(token_ids, images)

    def close(self) -> None:
        """Release weights and caches; closing twice is fine, requests afterwards raise BadInputError.

        So do requests that are running in other threads, at their next step.
        """
        self._opened.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, prepared: Prepared, params: SamplingParams, index: int, cancel: Event | None) -> Request:
        ids, images = checked_ids(prepared[0], self._vocab_size, self.context_length), prepared[1]
        sampling = params.resolve(self._opened.generation_config, self.context_length - len(ids))
        return Request(ids, sampling, index, cancel or Event(), images)

    def _run(self, request: Request) -> Iterator[Delta]:
        self._sequences.check_open()
        return answer_deltas(request, self._opened)
