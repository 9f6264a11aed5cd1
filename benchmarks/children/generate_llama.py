"""The same with llama.cpp and a GGUF file of `peers/convert_llama.py`; runs in the peers' environment.

Calls the C interface, as llama.cpp's own benchmark does: the Python class around it adds time to every step.
"""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from process import prompts, report, spec, status_bytes

asked = spec()
started = time.perf_counter()
import llama_cpp as lib  # noqa: E402 (the import is part of what is measured)

imported = time.perf_counter()
ERROR = 4  # GGML_LOG_LEVEL_ERROR


@lib.llama_log_callback
def log(level: int, text: bytes, _: Any) -> None:
    """Errors alone; llama.cpp is talkative."""
    if level == ERROR:
        sys.stderr.write(text.decode("utf-8", "replace"))


lib.llama_log_set(log, ctypes.c_void_p(0))
lib.llama_backend_init()
length = asked["prompt_tokens"] + asked["new_tokens"]
model = lib.llama_model_load_from_file(bytes(Path(asked["file"])), lib.llama_model_default_params())
settings = lib.llama_context_default_params()
settings.n_ctx = length
settings.n_batch = asked["prompt_tokens"]
settings.n_threads = settings.n_threads_batch = asked["threads"]
settings.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED if asked["flash"] else lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
settings.type_k = settings.type_v = getattr(lib, f"GGML_TYPE_{asked['cache']}")
settings.no_perf = True
context = lib.llama_init_from_model(model, settings)
assert model and context, f"llama.cpp does not load {asked['file']}"
sampler = lib.llama_sampler_init_greedy()
loaded = time.perf_counter()


def step(tokens: Any, count: int) -> int:
    """Run tokens after those before and choose the next; only the last row of logits is computed."""
    assert lib.llama_decode(context, lib.llama_batch_get_one(tokens, count)) == 0
    return int(lib.llama_sampler_sample(sampler, context, -1))


def generate(ids: list[int]) -> tuple[float, float, list[int]]:
    """Tokens per second of prefill and decode, and the new tokens; end-of-text is ignored."""
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
    prompt = (lib.llama_token * len(ids))(*ids)
    begun = time.perf_counter()
    new = [step(prompt, len(ids))]
    first = time.perf_counter()
    while len(new) < asked["new_tokens"]:
        new.append(step((lib.llama_token * 1)(new[-1]), 1))
    ended = time.perf_counter()
    return len(ids) / (first - begun), (asked["new_tokens"] - 1) / (ended - first), new


other, prompt = prompts(asked["seed"], asked["vocab_size"], asked["prompt_tokens"]).tolist()
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
        "system": lib.llama_print_system_info().decode(),
        "tokens": tokens,
    }
)
