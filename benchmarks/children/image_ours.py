"""Open an artifact, ask about a small image to warm up, then measure: vision features, first token."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from process import report_image, spec

from inference_pio.runtime import Engine, EngineConfig, Result, SamplingParams
from inference_pio.runtime.vision.preprocess import Preprocessor

asked = spec()
config = EngineConfig(threads=asked["threads"], prefix_cache_bytes=0, cache_dir=Path(asked["cache_dir"]))
rng = np.random.default_rng(asked["seed"])
prepare = Preprocessor(Path(asked["artifact"]))
with Engine.open(asked["artifact"], config) as engine:

    def ask(side: int) -> tuple[float, float, int]:
        """Seconds to the vision features of one image, to the first token about another, and tokens of the prompt."""
        images = rng.integers(0, 256, (2, side, side, 3), dtype=np.uint8)
        assert engine.vision is not None
        started = time.perf_counter()
        engine.vision.encoder.features(prepare.image(images[0], "image"))
        features = time.perf_counter() - started
        facts = engine.manifest.vision
        ids = [facts.vision_start_token_id, facts.image_token_id, facts.vision_end_token_id, 100, 200]
        params = SamplingParams(max_new_tokens=1, temperature=0.0, ignore_eos=True)
        started = time.perf_counter()
        result = engine.generate(ids, params, images=[images[1]])
        assert isinstance(result, Result)
        return features, time.perf_counter() - started, result.usage.prompt_tokens

    ask(256)
    report_image(*ask(asked["side"]))
