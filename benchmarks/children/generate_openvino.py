"""The same with OpenVINO GenAI and a folder of `peers/convert_openvino.py`; runs in the peers' environment."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from process import prompts, report, spec, status_bytes

asked = spec()
started = time.perf_counter()
import numpy as np  # noqa: E402 (the import is part of what is measured)
import openvino as ov  # noqa: E402
import openvino_genai as genai  # noqa: E402

imported = time.perf_counter()
properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": asked["threads"], **asked["properties"]}
pipeline = genai.LLMPipeline(asked["folder"], "CPU", **properties)
loaded = time.perf_counter()
greedy = genai.GenerationConfig(
    max_new_tokens=asked["new_tokens"], min_new_tokens=asked["new_tokens"], ignore_eos=True, do_sample=False
)


def generate(ids: Any) -> tuple[float, float, list[int]]:
    """Tokens per second of prefill (up to the first token) and of the steps after it, and the new tokens."""
    attention = np.ones((1, len(ids)), np.int64)
    begun = time.perf_counter()
    result = pipeline.generate(genai.TokenizedInputs(ov.Tensor(ids[None]), ov.Tensor(attention)), greedy)
    total = time.perf_counter() - begun
    first = result.perf_metrics.get_ttft().mean / 1000
    tokens = [int(token) for token in result.tokens[0]]
    assert len(tokens) == asked["new_tokens"] and 0 < first < total
    return len(ids) / first, (asked["new_tokens"] - 1) / (total - first), tokens


other, prompt = prompts(asked["seed"], asked["vocab_size"], asked["prompt_tokens"])
generate(other)
prefill, decode, tokens = generate(prompt)
report(
    {
        "prefill_tokens_per_s": prefill,
        "decode_tokens_per_s": decode,
        "import_s": imported - started,
        "load_s": loaded - imported,
        "steady_rss_bytes": status_bytes("VmRSS"),
        "peak_rss_bytes": status_bytes("VmHWM"),
        "tokens": tokens,
    }
)
