"""Prefill and decode of transformers itself, in any of its float types, greedy, with its own cache."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import torch
from process import report, spec, status_bytes
from transformers import AutoModelForCausalLM, DynamicCache

asked = spec()
torch.set_num_threads(asked["threads"])
started = time.perf_counter()
model = AutoModelForCausalLM.from_pretrained(asked["checkpoint"], dtype=getattr(torch, asked["dtype"]))
device = torch.device(asked.get("device", "cpu"))
model = model.eval().to(device)
loaded = time.perf_counter()


def finish() -> None:
    """Wait for what was started on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()


@torch.inference_mode()
def generate(ids: torch.Tensor) -> tuple[float, float]:
    """Tokens per second of prefill and decode."""
    cache = DynamicCache(config=model.config)
    finish()
    begun = time.perf_counter()
    token = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].argmax(-1)
    finish()
    prefilled = time.perf_counter()
    for _ in range(asked["new_tokens"] - 1):
        token = model(token[:, None], past_key_values=cache, use_cache=True).logits[:, -1].argmax(-1)
    finish()
    ended = time.perf_counter()
    return ids.shape[1] / (prefilled - begun), (asked["new_tokens"] - 1) / (ended - prefilled)


random = torch.Generator().manual_seed(asked["seed"])
prompts = torch.randint(0, model.config.vocab_size, (2, 1, asked["prompt_tokens"]), generator=random).to(device)
generate(prompts[0, :, :16])
prefill, decode = generate(prompts[1])
report(
    {
        "prefill_tokens_per_s": prefill,
        "decode_tokens_per_s": decode,
        "load_s": loaded - started,
        "steady_rss_bytes": status_bytes("VmRSS"),
        "peak_rss_bytes": status_bytes("VmHWM"),
    }
)
