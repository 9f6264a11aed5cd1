"""Measuring an artifact: load, prefill, decode and memory of this process."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from inference_pio.artifact.process import peak_rss_bytes
from inference_pio.errors import BadInputError
from inference_pio.runtime.config import EngineConfig
from inference_pio.runtime.engine import Engine
from inference_pio.runtime.result import Result
from inference_pio.runtime.sampling_params import SamplingParams


def bench(
    artifact: Path,
    *,
    prompt_tokens: int,
    new_tokens: int,
    threads: int | None,
    repeat: int,
    cache_dir: Path,
    backend: str = "auto",
    device: str = "auto",
) -> dict[str, Any]:
    """Medians over `repeat` runs (after one to warm up) of a random prompt, greedy, without the prefix cache.

    Seconds, tokens per second and bytes. `outside_run_share` is the part of a decode step spent outside the runtime
    library. Memory is that of the whole process. Raises BadInputError where prompt and answer do not fit the context.
    """
    started = time.perf_counter()
    config = EngineConfig(backend=backend, device=device, threads=threads, prefix_cache_bytes=0, cache_dir=cache_dir)
    with Engine.open(artifact, config) as engine:
        load_s = time.perf_counter() - started
        if prompt_tokens + new_tokens > engine.context_length:
            raise BadInputError(
                f"a prompt of {prompt_tokens} and {new_tokens} new tokens do not fit the context of "
                f"{engine.context_length}: ask for fewer"
            )
        ids = np.random.default_rng(0).integers(0, engine.manifest.model.vocab_size, prompt_tokens).tolist()
        params = SamplingParams(max_new_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        engine.generate(ids, params)
        results = [engine.generate(ids, params) for _ in range(repeat)]
        timings = [result.timings for result in results if isinstance(result, Result)]
        steady = psutil.Process().memory_info().rss
    return {
        "prefill_tokens_per_s": statistics.median(t.prefill_tokens_per_s for t in timings),
        "decode_tokens_per_s": statistics.median(t.decode_tokens_per_s for t in timings),
        "time_to_first_token_s": statistics.median(t.time_to_first_token_s for t in timings),
        "outside_run_share": statistics.median(1 - t.decode_run_s / t.decode_s for t in timings),
        "load_s": load_s,
        "peak_rss_bytes": peak_rss_bytes(),
        "steady_rss_bytes": steady,
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "repeat": repeat,
    }
