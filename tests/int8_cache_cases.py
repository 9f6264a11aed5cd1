"""Decoders with an int8 key/value cache: true ranges, the lowered graph, and a float graph that rounds the same way."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.kv_scales import KvScales, key_scales, value_scales
from inference_pio.graphs.rewrites.rewrite import LoweringContext
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.graphs.targets import find_target

sys.path.insert(0, str(Path(__file__).parent))
from graph_cases import canonical, context


def session_of(model: ir.Model, folder: Path, name: str = "model.onnx") -> ort.InferenceSession:
    ir.save(model, folder / name)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return ort.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])


def run_canonical(session: ort.InferenceSession, spec: DecoderSpec, ids: np.ndarray) -> dict[str, np.ndarray]:
    """All outputs for `ids` [B, S] from an empty cache."""
    empty = np.zeros((len(ids), spec.kv_heads, 0, spec.head_dim), np.float32)
    feeds = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.tile(np.arange(ids.shape[1]), (len(ids), 1)),
        **{f"past_key_values.{n}.{kind}": empty for n in range(spec.layers) for kind in ("key", "value")},
    }
    known = {value.name for value in session.get_inputs()}
    outputs = [value.name for value in session.get_outputs()]
    found = session.run(outputs, {name: value for name, value in feeds.items() if name in known})
    return dict(zip(outputs, found, strict=True))


def true_scales(spec: DecoderSpec, folder: Path, ids: np.ndarray) -> dict[int, KvScales]:
    """Scales from the keys and values that the canonical graph makes of `ids`; a turn keeps a pair's length."""
    found = run_canonical(session_of(canonical(spec), folder, "ranges.onnx"), spec, ids)
    rows = {
        name: value.transpose(0, 2, 1, 3).reshape(-1, spec.kv_heads, spec.head_dim)
        for name, value in found.items()
        if name.startswith("present.")
    }
    return {
        layer: KvScales(key_scales(rows[f"present.{layer}.key"]), value_scales(rows[f"present.{layer}.value"]))
        for layer in range(spec.layers)
    }


def lowering(spec: DecoderSpec, scales: dict[int, KvScales] | None) -> LoweringContext:
    return replace(context(spec), kv_scales=scales)


def lowered(spec: DecoderSpec, scales: dict[int, KvScales] | None) -> ir.Model:
    """The decoder as the ort-cpu target makes it."""
    model = canonical(spec)
    find_target("ort-cpu").lower(model, lowering(spec, scales))
    return model


def rounded(spec: DecoderSpec, scales: dict[int, KvScales]) -> ir.Model:
    """The canonical graph whose keys (after the rotation) and values are rounded in float32 before attention."""
    model = canonical(spec)
    b = GraphBuilder(model.graph)
    attentions = [node for node in model.graph if node.op_type == "Attention"]
    for layer, node in enumerate(attentions):
        with b.before(node):
            for index, steps in ((1, scales[layer].key), (2, scales[layer].value)):
                used = np.where(steps == 0, 1, steps).reshape(-1).astype(np.float32)
                codes = b.op("Round", [b.op("Mul", [node.inputs[index], b.const(1 / used, np.float32)])])
                low, high = b.const(-128.0, np.float32), b.const(127.0, np.float32)
                node.replace_input_with(
                    index, b.op("Mul", [b.op("Clip", [codes, low, high]), b.const(used, np.float32)])
                )
    return model


class Int8Decoder:
    """A lowered decoder over int8 buffers of `capacity` rows that start out as nonsense."""

    def __init__(self, session: ort.InferenceSession, spec: DecoderSpec, capacity: int, rows: int = 1) -> None:
        self.session, self.length = session, 0
        shape = (rows, spec.kv_heads, capacity, spec.head_dim)
        self.arrays = {
            f"{layer}.{kind}": np.full(shape, 99, np.int8) for layer in range(spec.layers) for kind in ("key", "value")
        }
        self.values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in self.arrays.items()}

    def step(self, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Logits [B, S, V] of new tokens `ids` [B, S]."""
        self.length += ids.shape[1]
        mask = np.ones((len(ids), self.length), np.int64) if mask is None else mask
        binding = self.session.io_binding()
        for name, value in self.values.items():
            binding.bind_ortvalue_input(f"past_key_values.{name}", value)
            binding.bind_ortvalue_output(f"present.{name}", value)
        binding.bind_cpu_input("input_ids", np.ascontiguousarray(ids))
        binding.bind_cpu_input("attention_mask", mask)
        binding.bind_output("logits")
        self.session.run_with_iobinding(binding)
        return binding.get_outputs()[-1].numpy()

    def steps(self, ids: np.ndarray, sizes: list[int]) -> np.ndarray:
        """Logits of `ids` [B, S] fed in pieces of `sizes`."""
        ends = np.cumsum(sizes)
        return np.concatenate([self.step(ids[:, end - n : end]) for n, end in zip(sizes, ends, strict=True)], axis=1)

    def codes(self, tokens: int) -> dict[str, np.ndarray]:
        """What the cache holds of the first `tokens` positions."""
        return {name: array[:, :, :tokens].copy() for name, array in self.arrays.items()}
