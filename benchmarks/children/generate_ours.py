"""Load an artifact, run one prompt to warm up, unless told not to, and another to measure."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from process import disk_bytes_read, prompts, report, spec, status_bytes

asked = spec()
if "control_group" in asked:
    (Path(asked["control_group"]) / "cgroup.procs").write_text(str(os.getpid()))
started = time.perf_counter()
from inference_pio.runtime import Engine, EngineConfig, Result, SamplingParams  # noqa: E402 (measured)

imported = time.perf_counter()
config = EngineConfig(
    device=asked.get("device", "auto"),
    threads=asked["threads"],
    prefix_cache_bytes=asked["prefix_cache_bytes"],
    cache_dir=Path(asked["cache_dir"]),
    map_weights=asked.get("map_weights", "off"),
)
with Engine.open(asked["artifact"], config) as engine:
    loaded = time.perf_counter()
    other, ids = prompts(asked["seed"], engine.manifest.model.vocab_size, asked["prompt_tokens"]).tolist()
    params = SamplingParams(max_new_tokens=asked["new_tokens"], ignore_eos=True, **asked["sampling"])
    if asked.get("warm_up", True):
        engine.generate(other, params)
    read_before = disk_bytes_read()
    result = engine.generate(ids, params)
    assert isinstance(result, Result) and len(result.token_ids) == asked["new_tokens"]
    timings, manifest = result.timings, engine.manifest
    report(
        {
            "prefill_tokens_per_s": timings.prefill_tokens_per_s,
            "decode_tokens_per_s": timings.decode_tokens_per_s,
            "outside_run_share": 1 - timings.decode_run_s / timings.decode_s,
            "decode_step_ms": 1000 * timings.decode_s / asked["new_tokens"],
            "import_s": imported - started,
            "load_s": loaded - imported,
            "read_bytes": disk_bytes_read() - read_before,
            "anonymous_bytes": status_bytes("RssAnon"),
            "steady_rss_bytes": status_bytes("VmRSS"),
            "peak_rss_bytes": status_bytes("VmHWM"),
            "kv_bytes": manifest.memory.cache_bytes_per_token * (asked["prompt_tokens"] + asked["new_tokens"]),
            "tokens": list(result.token_ids),
        }
    )
