"""Teacher-forced logits of an artifact on random tokens, float32 [tokens, vocabulary], saved for the parent."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from process import prompts, report, spec

from inference_pio.runtime import Engine, EngineConfig

asked = spec()
config = EngineConfig(device=asked["device"], prefix_cache_bytes=0, cache_dir=Path(asked["cache_dir"]))
with Engine.open(asked["artifact"], config) as engine:
    ids, _ = prompts(asked["seed"], engine.manifest.model.vocab_size, asked["tokens"])
    np.save(asked["out"], engine.logits(ids))
report({"positions": len(ids)})
