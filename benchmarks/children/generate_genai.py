"""The same with onnxruntime-genai and an export of its own builder."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from process import prompts, report, spec, status_bytes

asked = spec()
started = time.perf_counter()
import numpy as np  # noqa: E402 (the import is part of what is measured)
import onnxruntime_genai as og  # noqa: E402

imported = time.perf_counter()
config = og.Config(asked["folder"])
config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": asked["threads"]}}}}))
model = og.Model(config)
loaded = time.perf_counter()


def generate(ids: Any) -> tuple[float, float]:
    """Tokens per second of prefill and decode; the search's length is what is needed, end-of-text is ignored."""
    params = og.GeneratorParams(model)
    length = len(ids) + asked["new_tokens"]
    params.set_search_options(do_sample=False, max_length=length, min_length=length)
    generator = og.Generator(model, params)
    begun = time.perf_counter()
    generator.append_tokens(ids)
    prefilled = time.perf_counter()
    generator.generate_next_token()
    first = time.perf_counter()
    for _ in range(asked["new_tokens"] - 1):
        generator.generate_next_token()
    ended = time.perf_counter()
    assert len(generator.get_sequence(0)) == length
    return len(ids) / (prefilled - begun), (asked["new_tokens"] - 1) / (ended - first)


other, prompt = prompts(asked["seed"], asked["vocab_size"], asked["prompt_tokens"]).astype(np.int32)
generate(other)
prefill, decode = generate(prompt)
report(
    {
        "prefill_tokens_per_s": prefill,
        "decode_tokens_per_s": decode,
        "import_s": imported - started,
        "load_s": loaded - imported,
        "steady_rss_bytes": status_bytes("VmRSS"),
        "peak_rss_bytes": status_bytes("VmHWM"),
    }
)
