"""The expected memory: sizes counted by hand, and stages whose memory numpy can tell."""

import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graph_cases import spec_with

from inference_pio.calibration.choices import choose, fold
from inference_pio.calibration.gptq import Feedback
from inference_pio.calibration.layer import emit
from inference_pio.calibration.memory import (
    MATRIX_COPIES,
    ROUNDED_ROWS,
    expected_memory,
    factored_bytes,
    layer_memory,
    sizes_of,
)
from inference_pio.calibration.options import Switches
from inference_pio.calibration.recipes import RECIPES
from inference_pio.calibration.statistics import TapStatistics
from inference_pio.calibration.taps import Tap
from inference_pio.checkpoint.safetensors_header import TensorInfo
from inference_pio.graphs.formats import W8A8, WeightFormat

SPEC = spec_with(windows=(None, None))
SHAPES = {
    "model.embed_tokens.weight": (1000, 64),
    **{f"model.layers.{layer}.input_layernorm.weight": (64,) for layer in range(3)},
    **{f"model.layers.{layer}.self_attn.{name}_proj.weight": (64, 64) for layer in range(3) for name in "qo"},
    "model.layers.0.mlp.down_proj.weight": (64, 256),
    "model.layers.1.mlp.gate.weight": (2, 64),
    **{f"model.layers.1.mlp.experts.{e}.up_proj.weight": (128, 64) for e in range(2)},
    **{f"model.layers.1.mlp.experts.{e}.down_proj.weight": (64, 128) for e in range(2)},
    "model.layers.2.mlp.down_proj.weight": (640, 640),  # beyond the layers that are asked for
}
TENSORS = {name: TensorInfo(name, "F32", shape, Path("x"), 0, 4 * math.prod(shape)) for name, shape in SHAPES.items()}


def test_sizes_are_those_of_every_layer_and_expert():
    dense, sparse = sizes_of(TENSORS, RECIPES["w8a8"], SPEC, second_order=True)
    assert dense.own.floats == 4 * (64 + 2 * 64 * 64 + 64 * 256)
    assert dense.own.matrix == 4 * 64 * 256
    assert dense.codes == dense.own.codes == 2 * 64 * (64 + 4) + 64 * (256 + 4)
    assert dense.own.widths == 2 * 128 + 320
    assert sparse.own.floats == 4 * (64 + 2 * 64 * 64 + 2 * 64)
    assert sparse.own.codes == 2 * 64 * (64 + 4)  # the router stays
    assert [expert.floats for expert in sparse.experts.values()] == [4 * 2 * 64 * 128] * 2
    assert sparse.expert_codes == 2 * (128 * (64 + 4) + 64 * (128 + 4)) == sparse.codes - sparse.own.codes
    assert sparse.experts["0"].widths == 2 * 192
    assert dense.own.gathered == dense.own.factored == sparse.experts["1"].factored == 0


def test_four_bits_take_half_and_the_products_of_their_inputs():
    dense, sparse = sizes_of(TENSORS, RECIPES["int4-calibrated"], SPEC, second_order=True)
    assert dense.codes == 2 * 64 * (32 + 4) + 64 * (128 + 2 * 4)
    assert dense.own.gathered == 8 * (64**2 + 256**2) + 4 * 256**2
    assert dense.own.factored == factored_bytes(256)
    assert sparse.experts["0"].gathered == 8 * (64**2 + 128**2) + 4 * 128**2
    for layer in sizes_of(TENSORS, RECIPES["int4-calibrated"], SPEC, second_order=False):
        assert layer.own.gathered == layer.own.factored == 0


def test_what_is_held_counts_once_and_rows_by_their_number():
    sizes = sizes_of(TENSORS, RECIPES["w8a8"], SPEC, second_order=True)

    def needs(samples: int, length: int, heads: int = SPEC.heads) -> int:
        return expected_memory(sizes, spec_with(windows=SPEC.windows, heads=heads), samples, length, False)

    assert needs(64, 512) == needs(8, 512)
    assert needs(9000, 512) - needs(5000, 512) == pytest.approx(4 * ROUNDED_ROWS * 8000 * sizes[0].own.widths)
    assert needs(1, 4096, heads=8) - needs(1, 4096, heads=4) == 4 * 4 * 4096**2


def test_the_codes_of_all_experts_are_held_at_once():
    one, two = (
        sizes_of({n: t for n, t in TENSORS.items() if f"experts.{left_out}." not in n}, RECIPES["w8a8"], SPEC, True)[1]
        for left_out in (1, 2)
    )
    layer = [layer_memory(sizes, 0, SPEC.heads, 8, 512) for sizes in (one, two)]
    assert layer[1] - layer[0] == one.expert_codes == two.expert_codes // 2


def peak_of(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("columns", [700, 1500])
def test_second_order_rounding_stays_within_its_bytes(columns: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("inference_pio.calibration.gptq.FLOAT64_COLUMNS", 1000)
    gram_KK = np.eye(columns, dtype=np.float64 if columns <= 1000 else np.float32)
    expected = factored_bytes(columns)
    assert 0.7 * expected < gram_KK.nbytes + peak_of(lambda: Feedback.of(gram_KK)) <= expected


@pytest.mark.parametrize("chosen", [W8A8, WeightFormat(8)])
def test_rounding_a_layer_stays_within_its_terms(chosen: WeightFormat):
    random, names = np.random.default_rng(0), ("gate", "up")
    tensors = {name: random.normal(size=(1024, 1024)).astype(np.float32) for name in names}
    statistics = TapStatistics(Tap(ir.Value(name="x"), names, 1024, None), 1, gram=False)
    statistics.update(random.normal(size=(64, 1024)).astype(np.float32))
    choices = choose([statistics], tensors, lambda _: chosen, Switches())
    fold(tensors, choices)
    peak = peak_of(lambda: emit([statistics], choices, tensors, lambda _: chosen, Switches(clipping=False)))
    matrix, codes = 4 << 20, 2 << 20
    # The first of the float matrices is counted among the layer's once it is replaced.
    assert peak <= codes * 1.1 + MATRIX_COPIES * matrix + 4 * ROUNDED_ROWS * 64 * 2 * 2048 + matrix
    assert peak > codes + matrix
