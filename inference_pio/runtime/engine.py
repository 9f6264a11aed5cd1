"""The engine: opens an artifact and answers requests; threads may share it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any

import numpy as np

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.hashing import StampCache
from inference_pio.artifact.jsonfile import read_json_object
from inference_pio.artifact.manifest import Manifest
from inference_pio.errors import BadInputError
from inference_pio.runtime.answer import Answer
from inference_pio.runtime.backends.choose import open_backend
from inference_pio.runtime.backends.device_memory import DeviceMemory
from inference_pio.runtime.config import EngineConfig, MapWeights, VerifyHashes
from inference_pio.runtime.cpu import check_cpu_class, physical_cores
from inference_pio.runtime.device import choose_memory
from inference_pio.runtime.generation import CHUNK_TOKENS, decode, prefill
from inference_pio.runtime.inputs import checked_ids, split_prompts
from inference_pio.runtime.mapped.choice import mapped_graph
from inference_pio.runtime.memory import MemoryBudget
from inference_pio.runtime.prefix_cache import NullPrefixCache, PrefixCache, RadixPrefixCache
from inference_pio.runtime.prompts import Prepared, PromptReader, checked_images
from inference_pio.runtime.request import Request
from inference_pio.runtime.result import Delta, Result, last_result
from inference_pio.runtime.sampler import Sampler
from inference_pio.runtime.sampling_params import SamplingParams
from inference_pio.runtime.sequences import Sequences
from inference_pio.runtime.teacher_forcing import TeacherForcing
from inference_pio.runtime.tokenizer import Tokenizer
from inference_pio.runtime.vision.input import VisionInput

PROCESS_BYTES = 150 << 20
"""Interpreter, libraries and activations, counted against `max_memory`."""

MAPPED_SHARE = 0.1
"""Of weights that are mapped, what may be in memory for good: one of them while it is packed, and small tensors."""

ENDING_TOKENS = 16
"""Of a chat's prompt, in which it shows whether the reasoning was opened."""

FILES_READ = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
"""Files that the engine reads by name, besides the graphs."""


class Engine:
    """An open artifact. Use it as a context manager or call `close`."""

    def __init__(
        self, artifact: Artifact, config: EngineConfig, mapped: Path | None = None, memory: DeviceMemory | None = None
    ) -> None:
        """`mapped` is the prepacked form of the artifact's graph, where its weights stay on disk.

        `memory` is where cache and logits live, None for a graph made for CPUs.
        """
        self.manifest: Manifest = artifact.manifest
        self.path = artifact.path
        artifact.refuse_unlisted(FILES_READ)
        self.context_length = min(self.manifest.model.context_length, config.max_context or 1 << 62)
        self.tokenizer = Tokenizer.load(artifact.path)
        self._generation_config = read_json_object(artifact.file("generation_config.json"))
        self._budget = MemoryBudget(config.max_memory)
        weights = self.manifest.memory.weight_bytes
        kept = weights if mapped is None else int(MAPPED_SHARE * weights)
        self._budget.take(kept + PROCESS_BYTES, "loading the weights")
        self._budget.take(config.prefix_cache_bytes, "the prefix cache")
        self.prefix_cache: PrefixCache = (
            RadixPrefixCache(CHUNK_TOKENS, config.prefix_cache_bytes)
            if config.prefix_cache_bytes
            else NullPrefixCache()
        )
        threads = config.threads or physical_cores()
        backend = open_backend(artifact.path, self.manifest, config, threads, self._budget, mapped, memory)
        self._sequences = Sequences(backend)
        self.vision: VisionInput | None = None
        """What prepares images, where the model takes any."""
        if self.manifest.vision is not None:
            self._budget.take(config.image_cache_bytes, "the cache of image features")
            self.vision = VisionInput(
                artifact, self.manifest.vision, self.tokenizer, backend.open_tower, self._budget, config
            )
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
        config = config or EngineConfig()
        artifact = Artifact.open(Path(path))
        accuracy = artifact.manifest.accuracy
        if accuracy is not None and not accuracy.passed and not config.allow_failed:
            raise BadInputError(
                f"{path} failed its accuracy gate {accuracy.gate} when it was exported: export it with another "
                "recipe, or open it with allow_failed=True"
            )
        check_cpu_class(artifact.manifest.requires.cpu_classes)
        cache_dir = config.cache
        stamps = StampCache(cache_dir) if config.verify_hashes is VerifyHashes.FIRST_OPEN else None
        memory = choose_memory(artifact.manifest, config)
        if memory is not None and config.map_weights is MapWeights.ON:
            raise BadInputError(f"{path} was exported for GPUs, and its weights are loaded: leave map_weights out")
        mapped = mapped_graph(artifact, config, cache_dir, stamps) if memory is None else None
        with ThreadPoolExecutor(max_workers=1) as pool:
            hashed = pool.submit(artifact.check_large_files, stamps)
            engine = cls(artifact, config, mapped, memory)
            hashed.result()
        return engine

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
        self._sequences.close()
        with self._sequences.lock:
            self.prefix_cache.clear()
        if self.vision is not None:
            self.vision.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _vocab_size(self) -> int:
        return self.manifest.model.vocab_size

    def _request(self, prepared: Prepared, params: SamplingParams, index: int, cancel: Event | None) -> Request:
        ids, images = checked_ids(prepared[0], self._vocab_size, self.context_length), prepared[1]
        sampling = params.resolve(self._generation_config, self.context_length - len(ids))
        return Request(ids, sampling, index, cancel or Event(), images)

    def _run(self, request: Request) -> Iterator[Delta]:
        self._sequences.check_open()
        return self._deltas(request)

    def _deltas(self, request: Request) -> Iterator[Delta]:
        answer = Answer(request, self.tokenizer)
        with self._sequences.use() as sequence:
            answer.start()
            sampler = Sampler(request.sampling, self._vocab_size, request.prompt_ids, request.index)
            scores, cached = prefill(sequence, request, sampler, self.prefix_cache, self._sequences.turn)
            answer.prompt_done(cached)
            run_before = sequence.run_seconds
            steps = () if scores is None else decode(sequence, scores, request, sampler, self._sequences.turn)
            for step in steps:
                delta = answer.add(step)
                if delta is None:
                    break
                yield delta
            run_seconds = sequence.run_seconds - run_before
        yield answer.finish(run_seconds)
