"""An answer as it grows: steps of the generation loop become deltas of text and, at the end, the result."""

from __future__ import annotations

import time
from collections.abc import Iterator

from inference_pio.runtime.detokenizer import StreamDecoder
from inference_pio.runtime.generation import Step, decode, prefill
from inference_pio.runtime.open_artifact import OpenArtifact
from inference_pio.runtime.request import Request
from inference_pio.runtime.result import Delta, FinishReason, Result, Timings, TokenLogprob, Usage, rate
from inference_pio.runtime.sampler import Sampler
from inference_pio.runtime.tokenizer import Tokenizer


class Answer:
    """Collects the tokens, text, log-probabilities and times of one request."""

    def __init__(self, request: Request, tokenizer: Tokenizer) -> None:
        self._request = request
        self._decoder = StreamDecoder(tokenizer, request.sampling.stop)
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._text: list[str] = []
        self._finish = FinishReason.CANCELLED
        self._cached = 0
        self._pending: tuple[str, Step] | None = None
        self._created = self._started = self._prefilled = self._first = time.perf_counter()

    def start(self) -> None:
        """The request has its buffers."""
        self._started = time.perf_counter()

    def prompt_done(self, cached: int) -> None:
        """The prompt was run; `cached` of its tokens came from the prefix cache."""
        self._cached = cached
        self._prefilled = self._first = time.perf_counter()

    def add(self, step: Step) -> Delta | None:
        """The delta of a step, or None when it is the last one, whose delta `finish` makes."""
        if not self._tokens:
            self._first = time.perf_counter()
        self._tokens.append(step.token)
        if step.logprob is not None:
            self._logprobs.append(step.logprob)
        piece = "" if step.finish is FinishReason.STOP else self._decoder.push(step.token)
        self._text.append(piece)
        if self._decoder.stopped or step.finish is not None:
            self._finish = FinishReason.STOP if self._decoder.stopped else step.finish or FinishReason.STOP
            self._pending = (piece, step)
            return None
        return Delta(piece, (step.token,), (step.logprob,) if step.logprob else None)

    def finish(self, run_seconds: float) -> Delta:
        """The last delta with the result; `run_seconds` of the decoding were spent inside the runtime library."""
        ended = time.perf_counter()
        piece, step = self._pending or ("", None)
        rest = self._decoder.finish()
        usage = Usage(len(self._request.prompt_ids), len(self._tokens), self._cached)
        computed, decoded = usage.prompt_tokens - self._cached, max(len(self._tokens) - 1, 0)
        timings = Timings(
            queue_s=self._started - self._created,
            prefill_s=self._prefilled - self._started,
            decode_s=ended - self._prefilled,
            time_to_first_token_s=self._first - self._created,
            prefill_tokens_per_s=rate(computed, self._prefilled - self._started),
            decode_tokens_per_s=rate(decoded, ended - self._first),
            decode_run_s=run_seconds,
        )
        wanted = self._request.sampling.logprobs is not None
        logprobs = tuple(self._logprobs) if wanted else None
        text = "".join(self._text) + rest
        result = Result(text, tuple(self._tokens), self._finish, usage, timings, logprobs)
        tokens = (step.token,) if step else ()
        return Delta(piece + rest, tokens, (step.logprob,) if step and step.logprob else None, self._finish, result)


def answer_deltas(request: Request, opened: OpenArtifact) -> Iterator[Delta]:
    """Run a request: a delta per token, the last one with the result. Its sequence goes back however it ends."""
    answer, vocab_size = Answer(request, opened.tokenizer), opened.vocab_size
    turn = opened.sequences.turn
    with opened.sequences.use() as sequence:
        answer.start()
        sampler = Sampler(request.sampling, vocab_size, request.prompt_ids, request.index)
        scores, cached = prefill(sequence, request, sampler, opened.prefix_cache, turn)
        answer.prompt_done(cached)
        run_before = sequence.run_seconds
        steps = () if scores is None else decode(sequence, scores, request, sampler, turn)
        for step in steps:
            delta = answer.add(step)
            if delta is None:
                break
            yield delta
        run_seconds = sequence.run_seconds - run_before
    yield answer.finish(run_seconds)
