"""Run an artifact's graph under ONNX Runtime's profiler: one prompt to warm up, another that counts, then steps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
import onnxruntime as ort
from process import prompts, report, spec

from inference_pio.artifact.manifest_reader import read_manifest

asked = spec()
folder = Path(asked["artifact"])
manifest = read_manifest(folder)
options = ort.SessionOptions()
options.intra_op_num_threads = asked["threads"]
options.log_severity_level = 3
options.enable_profiling = True
options.profile_file_prefix = asked["profile"]
session = ort.InferenceSession(str(folder / manifest.graphs[0].file), options, providers=["CPUExecutionProvider"])
binding = session.io_binding()
cache, vocabulary = manifest.cache, manifest.model.vocab_size
shape = (1, cache.kv_heads, asked["prompt_tokens"] + asked["new_tokens"], cache.head_dim)
for layer in range(cache.layers):
    for kind in ("key", "value"):
        buffer = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
        binding.bind_ortvalue_input(f"past_key_values.{layer}.{kind}", buffer)
        binding.bind_ortvalue_output(f"present.{layer}.{kind}", buffer)


def run(ids: Any, past: int) -> None:
    feeds = {"input_ids": ids[None], "attention_mask": np.ones((1, past + len(ids)), np.int64)}
    feeds["num_logits_to_keep"] = np.ones(1, np.int64)
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    logits = ort.OrtValue.ortvalue_from_numpy(np.empty((1, 1, vocabulary), np.float32))
    binding.bind_ortvalue_output("logits", logits)
    session.run_with_iobinding(binding)


starts = range(0, asked["prompt_tokens"], asked["chunk"])
both = prompts(0, vocabulary, asked["prompt_tokens"])
for prompt in both:
    for start in starts:
        run(prompt[start : start + asked["chunk"]], start)
for step in range(asked["new_tokens"]):
    run(both[0][step : step + 1], asked["prompt_tokens"] + step)
report({"file": session.end_profiling(), "chunks": len(starts)})
