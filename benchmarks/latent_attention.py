"""Latent attention in the shape of GLM-4.7-Flash beside its expanded form: one step and one chunk, per layer.

`expanded` caches keys and values of all heads, as other runtimes do, with the fused operator that other models have
here; `operator` is ONNX Runtime's Attention over latents; `latent` is what an artifact holds. `making keys` makes keys
and values of all cached latents, which an expanded form over a cache of latents would do for every chunk, before its
attention. Products by head carry queries into the latent's space and results out of it. Layers have buffers and
weights of their own and take turns, so that little of a layer is left in the processor's caches when its turn comes.
Rounds alternate between the forms; a ratio is the median of the rounds' ratios. `--clock cpu` counts processor time
divided by the threads, which do not spin then, for a machine that is shared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from common import median, save, show

from inference_pio.graphs.blocks.attention_gqa import attention_mask
from inference_pio.graphs.blocks.rope import RopeSpec
from inference_pio.graphs.builder import MICROSOFT, GraphBuilder
from inference_pio.graphs.formats import WeightFormat
from inference_pio.graphs.rewrites import head_products, latent_attention
from inference_pio.graphs.rewrites.rewrite import LoweringContext, apply_rewrite, prune
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.graphs.weights import Rows

HEADS, NOPE, ROPE, RANK, VALUE = 20, 192, 64, 512, 256
WIDTH, SCALE = RANK + ROPE, (NOPE + ROPE) ** -0.5
CHUNK = 128
SPEC = DecoderSpec(
    "", 8, 2048, 8, HEADS, 1, WIDTH, 1e-5, RopeSpec(ROPE, ()), (), 1 << 20, False, qk_norm=False, qkv_bias=False,
    output_bias=False,
)  # fmt: skip
Call = Callable[[], None]
F = ir.DataType.FLOAT

PAUSE = 0.05
"""Seconds before each call, in which the threads of the session before stop spinning."""


def rewritten(b: GraphBuilder, rewrite: Any, chosen: str) -> ir.Model:
    """The graph of `b` after a rewrite, with every weight in one format."""
    context = LoweringContext(SPEC, lambda _: WeightFormat.parse(chosen), 1)
    apply_rewrite(rewrite, b.graph, context, required=True)
    prune(b.graph)
    kept = [value for value in b.graph.inputs if list(value.uses())]
    del b.graph.inputs[:]
    b.graph.inputs.extend(kept)
    return b.model()


def latent(layers: int, operator: bool) -> ir.Model:
    """Attention over latents: as an artifact holds it, or as the Attention operator."""
    b = GraphBuilder()
    ids_BS = b.input("input_ids", ir.DataType.INT64, ["b", "s"])
    mask_BT = b.input("attention_mask", ir.DataType.INT64, ["b", "t"])
    b.input("position_ids", ir.DataType.INT64, ["b", "s"])
    seen = attention_mask(b, mask_BT, ids_BS, None)
    for n in range(layers):
        q_BHSW = b.input(f"q{n}", F, ["b", HEADS, "s", WIDTH])
        past = b.input(f"past_key_values.{n}.latent", F, ["b", 1, "p", WIDTH])
        if operator:
            lengths_B = b.op("ReduceSum", [mask_BT, b.const([1])], {"keepdims": 0})
            inputs = [q_BHSW, past, past, None, None, None, lengths_B]
            b.output(b.op("Attention", inputs, {"scale": SCALE, "is_causal": 1}), f"y{n}", F, ["b", HEADS, "s", WIDTH])
        else:
            new = b.input(f"new{n}", F, ["b", 1, "s", WIDTH])
            present = b.op("Concat", [past, new], {"axis": 2})
            y_BHSW = b.op("Attention", [q_BHSW, present, present, seen], {"scale": SCALE, "is_causal": 0})
            y_BHSL = b.op("Slice", [y_BHSW, b.const([0]), b.const([RANK]), b.const([3])])
            b.output(y_BHSL, f"y{n}", F, ["b", HEADS, "s", RANK])
            b.output(present, f"present.{n}.latent", F, ["b", 1, "t", WIDTH])
    return b.model() if operator else rewritten(b, latent_attention, "fp32")


def expanded(layers: int) -> ir.Model:
    """GroupQueryAttention over keys and values of every head."""
    b, size = GraphBuilder(), NOPE + ROPE
    last, total = b.input("last", ir.DataType.INT32, ["b"]), b.input("total", ir.DataType.INT32, [])
    for n in range(layers):
        new = [b.input(f"{name}{n}", F, ["b", "s", HEADS * size]) for name in ("q", "k", "v")]
        past = [b.input(f"past_key_values.{n}.{kind}", F, ["b", HEADS, "p", size]) for kind in ("key", "value")]
        attributes = {"num_heads": HEADS, "kv_num_heads": HEADS, "scale": SCALE}
        inputs = [*new, *past, last, total]
        y, *present = b.ops("GroupQueryAttention", inputs, attributes, 3, domain=MICROSOFT)
        b.output(y, f"y{n}", F, ["b", "s", HEADS * size])
        for value, kind in zip(present, ("key", "value"), strict=True):
            b.output(value, f"present.{n}.{kind}", F, ["b", HEADS, "p", size])
    return b.model()


def making_keys(layers: int) -> ir.Model:
    """Keys and values of every head, of all latents."""
    b, rng, size = GraphBuilder(), np.random.default_rng(0), HEADS * (NOPE + VALUE)
    for n in range(layers):
        rows_BTL = b.input(f"rows{n}", F, ["b", "t", RANK])
        weight = b.const(rng.standard_normal((RANK, size), dtype=np.float32), np.float32)
        b.output(b.op("MatMul", [rows_BTL, weight]), f"y{n}", F, ["b", "t", size])
    return b.model()


def products(layers: int, chosen: str) -> ir.Model:
    """The two products by head."""
    b, rng = GraphBuilder(), np.random.default_rng(0)
    q_BHSU, y_BHSL = b.input("q", F, ["b", HEADS, "s", NOPE]), b.input("y", F, ["b", HEADS, "s", RANK])
    for n in range(layers):
        sizes = {"key": NOPE, "value": VALUE}
        arrays = {kind: rng.standard_normal((HEADS, size, RANK), dtype=np.float32) for kind, size in sizes.items()}
        key, value = (b.weight(f"{n}.{kind}", rows(f"{n}[{kind}]", array)) for kind, array in arrays.items())
        into = b.op("MatMul", [q_BHSU, key])
        out = b.op("MatMul", [y_BHSL, b.op("Transpose", [value], {"perm": [0, 2, 1]})])
        b.output(into, f"into{n}", F, ["b", HEADS, "s", RANK])
        b.output(out, f"out{n}", F, ["b", HEADS, "s", VALUE])
    return rewritten(b, head_products, chosen)


def rows(name: str, array: np.ndarray) -> Rows:
    """An array as rows of a checkpoint."""
    return Rows(((name, len(array)),), array.shape[1:], lambda _, start, stop: array[start:stop])


def prepared(model: ir.Model, new: int, context: int, threads: int, spin: bool) -> Call:
    """A run with random inputs of `new` tokens at the end of `context`; caches are bound as past and present."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    data = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    sizes = {"b": 1, "s": new, "p": context, "t": context}
    known = {
        "input_ids": np.zeros((1, new), np.int64),
        "attention_mask": np.ones((1, context), np.int64),
        "position_ids": np.zeros((1, new), np.int64),
        "last": np.array([context - 1], np.int32),
        "total": np.array(context, np.int32),
    }
    rng, binding, kept = np.random.default_rng(0), session.io_binding(), {}
    for value in session.get_inputs():
        shape = [sizes.get(size, size) for size in value.shape]
        array = known[value.name] if value.name in known else rng.standard_normal(shape, dtype=np.float32)
        kept[value.name] = (array, ort.OrtValue.ortvalue_from_numpy(array))
        binding.bind_ortvalue_input(value.name, kept[value.name][1])
    for value in session.get_outputs():
        past = value.name.replace("present.", "past_key_values.")
        if past in kept:
            binding.bind_ortvalue_output(value.name, kept[past][1])
        else:
            binding.bind_output(value.name)

    def call(keep: object = kept) -> None:
        session.run_with_iobinding(binding)

    return call


def times(calls: dict[str, Call], repeat: int, clock: Callable[[], float], layers: int) -> dict[str, list[float]]:
    """Seconds per layer, one per round; the forms take turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeat + 2):
        for name, call in calls.items():
            time.sleep(PAUSE)
            started = clock()
            call()
            if round_ >= 2:
                found[name].append((clock() - started) / layers)
    return found


def table_of(what: str, found: dict[str, list[float]], base: str) -> list[dict[str, Any]]:
    return [
        {
            "what": what,
            "form": name,
            "seconds": median(values),
            "base_over_this": median([one / other for one, other in zip(found[base], values, strict=True)]),
        }
        for name, values in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 1024, 4096])
    parser.add_argument("--layers", type=int, default=4, help="layers that take turns")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    options = parser.parse_args()
    layers, wall = options.layers, options.clock == "wall"
    clock = time.perf_counter if wall else lambda: time.process_time() / options.threads
    table: list[dict[str, Any]] = []
    for context in options.contexts:
        for new, what in ((1, "step"), (CHUNK, f"chunk of {CHUNK}")):
            models = {"expanded": expanded(layers), "operator": latent(layers, True), "latent": latent(layers, False)}
            if new > 1:
                models["making keys"] = making_keys(layers)
            calls = {name: prepared(model, new, context, options.threads, wall) for name, model in models.items()}
            found = times(calls, options.repeat if new == 1 else max(3, options.repeat // 5), clock, layers)
            table += table_of(f"{what} at {context}", found, "expanded")
    for new, what in ((1, "step"), (CHUNK, f"chunk of {CHUNK}")):
        calls = {
            name: prepared(products(layers, name), new, new, options.threads, wall) for name in ("fp32", "int8", "int4")
        }
        table += table_of(f"products by head, {what}", times(calls, options.repeat, clock, layers), "fp32")
    show(
        table,
        {"what": None, "form": None, "seconds": lambda v: f"{1e3 * v:.2f} ms", "base_over_this": lambda v: f"{v:.2f}x"},
    )
    size = 4 * WIDTH
    print(f"bytes per token and layer: {size} latent, {4 * HEADS * 2 * (NOPE + ROPE)} expanded")
    asked = {key: getattr(options, key) for key in ("contexts", "layers", "threads", "repeat", "clock")}
    save(options.json, {"asked": asked, "rows": table, "latent_bytes_per_token_and_layer": size})


if __name__ == "__main__":
    main()
