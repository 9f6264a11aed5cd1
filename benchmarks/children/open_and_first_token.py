"""From the start of a process to the first token of a prompt, phase by phase."""

from __future__ import annotations

import sys
import time

entered = time.monotonic()
from pathlib import Path  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from process import report, spec, status_bytes  # noqa: E402

asked = spec()
before_import = time.monotonic()
from inference_pio.runtime import Engine, EngineConfig, SamplingParams  # noqa: E402

imported = time.monotonic()
config = EngineConfig(threads=asked["threads"], cache_dir=Path(asked["cache_dir"]))
with Engine.open(asked["artifact"], config) as engine:
    opened = time.monotonic()
    prompt = [
        (index * 7919 + asked["seed"]) % engine.manifest.model.vocab_size for index in range(asked["prompt_tokens"])
    ]
    delta = next(iter(engine.stream(prompt, SamplingParams(max_new_tokens=2, temperature=0.0, ignore_eos=True))))
    first = time.monotonic()
    assert len(delta.token_ids) == 1
report(
    {
        "interpreter_s": entered - asked["spawned"],
        "import_s": imported - before_import,
        "open_s": opened - imported,
        "first_token_s": first - opened,
        "total_s": first - asked["spawned"],
        "peak_rss_bytes": status_bytes("VmHWM"),
    }
)
