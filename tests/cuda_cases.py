"""Graphs lowered for ort-cuda over random weights in memory, with caches that have room, and one-operator stand-ins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from graph_cases import Formats, arrays_of, canonical, context

from inference_pio.graphs.formats import FP32
from inference_pio.graphs.rewrites import fold_head_norms
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.graphs.targets import find_target
from inference_pio.graphs.targets.target import Target

__all__ = ["arrays_of", "caches", "lowered", "session_of", "without_head_norms"]


def lowered(
    spec: DecoderSpec,
    formats: Formats = FP32,
    dialect: str = "sm61",
    compute: ir.DataType = ir.DataType.FLOAT,
    target: Target | None = None,
) -> tuple[ir.Model, dict[str, int]]:
    """A decoder lowered to ort-cuda, and how often each rewrite matched."""
    model = canonical(spec)
    chosen = target or find_target("ort-cuda", dialect)
    reports = chosen.lower(model, replace(context(spec, formats), compute=compute))
    return model, {report.name: report.matches for report in reports}


def without_head_norms() -> Target:
    """The dialect `modern` without the one rewrite whose result no CPU kernel runs."""
    target = find_target("ort-cuda", "modern")
    return replace(target, steps=tuple(step for step in target.steps if step.rewrite is not fold_head_norms))


def caches(spec: DecoderSpec, rows: int, capacity: int, dtype: type = np.float32) -> dict[str, np.ndarray]:
    """Empty buffers with room for `capacity` tokens, by input name."""
    shape = (rows, spec.kv_heads, capacity, spec.head_dim)
    return {
        f"past_key_values.{layer}.{kind}": np.zeros(shape, dtype)
        for layer in range(spec.layers)
        for kind in spec.cache_kinds
    }


def session_of(model: ir.Model, folder: Path) -> ort.InferenceSession:
    """A session on the CPU without the inputs that nothing reads; warnings about optional inputs are not shown."""
    kept = [value for value in model.graph.inputs if list(value.uses())]
    del model.graph.inputs[:]
    model.graph.inputs.extend(kept)
    path = folder / "lowered.onnx"
    ir.save(model, path)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def logits_of_chunks(
    session: ort.InferenceSession, ids: np.ndarray, caches: dict[str, np.ndarray], sizes: Sequence[int]
) -> np.ndarray:
    """Logits [1, S, V] of `ids` [1, S], run as chunks of such sizes over one cache."""
    names, done, found = [value.name for value in session.get_outputs()], 0, []
    for size in sizes:
        feeds = {"input_ids": ids[:, done : done + size], "attention_mask": np.ones((1, done + size), np.int64)}
        results = dict(zip(names, session.run(names, {**feeds, **caches}), strict=True))
        caches = {name: results[name.replace("past_key_values", "present")] for name in caches}
        found.append(results["logits"])
        done += size
    return np.concatenate(found, axis=1)
