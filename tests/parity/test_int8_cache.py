"""A decoder over an int8 cache equals a float graph that rounds keys and values, wherever its chunks end."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from inference_pio.artifact.manifest import CacheSpec, Manifest, ModelFacts
from inference_pio.errors import BadInputError
from inference_pio.graphs.kv_scales import KvScales
from inference_pio.graphs.rewrites.int8_cache import FEW_TOKENS
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.runtime.backends import cache_buffers
from inference_pio.runtime.backends.ort import OrtBackend
from inference_pio.runtime.memory import MemoryBudget

sys.path.insert(0, str(Path(__file__).parents[1]))
from artifact_cases import manifest_of
from graph_cases import rope_of, spec_with
from int8_cache_cases import Int8Decoder, lowered, rounded, run_canonical, session_of, true_scales

TOLERANCE = 1e-4
"""On logits of scale 3 where no rounding falls the other way; kernels differ by about 1e-5."""
LENGTH, CAPACITY = 40, 64
SPECS = {
    "plain": spec_with(),
    "one_kv_head_of_48": spec_with(heads=3, kv_heads=1, head_dim=48),
    "windows": spec_with(windows=(5, None, 20)),
    "biased": spec_with(qkv_bias=True, output_bias=True),
    "scaled_rope": spec_with(rope=replace(rope_of(16), scaling=1.3)),
}
CHUNKS = [[40], [17, 23], [1] * 40, [16, 16, 8], [30, 1, 1, 8], [39, 1], [3, 37]]


@dataclass
class Case:
    """A decoder with its float reference."""

    spec: DecoderSpec
    scales: dict[int, KvScales]
    session: ort.InferenceSession
    ids: np.ndarray
    expected: dict[str, np.ndarray]
    plain: np.ndarray
    """Logits without any rounding."""

    def decoder(self, rows: int = 1) -> Int8Decoder:
        return Int8Decoder(self.session, self.spec, CAPACITY, rows)


@pytest.fixture(scope="module", params=SPECS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder, spec = tmp_path_factory.mktemp(request.param), SPECS[request.param]
    ids = np.random.default_rng(5).integers(0, spec.vocab_size, (1, LENGTH))
    scales = true_scales(spec, folder, ids)
    reference = session_of(rounded(spec, scales), folder, "rounded.onnx")
    plain = ort.InferenceSession(str(folder / "ranges.onnx"))
    return Case(
        spec,
        scales,
        session_of(lowered(spec, scales), folder),
        ids,
        run_canonical(reference, spec, ids),
        run_canonical(plain, spec, ids)["logits"],
    )


@pytest.mark.parametrize("sizes", CHUNKS, ids=lambda sizes: "-".join(map(str, sizes[:4])))
def test_chunks_of_any_size(case, sizes):
    found = case.decoder().steps(case.ids, sizes)
    assert np.abs(found - case.expected["logits"]).max() < TOLERANCE


def test_rounding_is_felt_and_small(case):
    """Else the other tests would prove nothing."""
    error = np.abs(case.expected["logits"] - case.plain).max()
    assert 3 * TOLERANCE < error < 0.5


def test_cached_integers_do_not_depend_on_chunks(case):
    """Bit for bit in the first layer; behind attention, whose kernels differ, a value may fall to the next integer."""
    whole = case.decoder()
    whole.step(case.ids)
    for sizes in CHUNKS[1:]:
        pieces = case.decoder()
        pieces.steps(case.ids, sizes)
        for name, codes in pieces.codes(LENGTH).items():
            difference = np.abs(codes.astype(int) - whole.codes(LENGTH)[name])
            assert difference.max() <= (0 if name.startswith("0.") else 1)
            assert (difference > 0).mean() < 2e-3


def test_cached_integers_are_the_rounded_values(case):
    """The reference's cache holds integers times steps; an integer apart where a value lies between two."""
    decoder = case.decoder()
    decoder.step(case.ids)
    for name, codes in decoder.codes(LENGTH).items():
        layer, kind = name.split(".")
        steps = getattr(case.scales[int(layer)], kind)[None, :, None]
        difference = np.abs(codes - case.expected[f"present.{name}"] / steps)
        assert difference.max() < 1.01
        assert (difference > 0.01).mean() < 2e-3
        if layer == "0":
            assert 127 >= np.abs(codes.astype(int)).max() >= (127 if kind == "value" else 100)


def test_rows_beyond_the_tokens_are_not_touched(case):
    decoder = case.decoder()
    decoder.steps(case.ids, [20, 3, 17])
    assert all((array[:, :, LENGTH:] == 99).all() for array in decoder.arrays.values())


@pytest.mark.parametrize("sizes", [[CAPACITY], [CAPACITY - 1, 1], [40, 24]])
def test_a_cache_that_is_exactly_full(case, sizes):
    ids = np.random.default_rng(6).integers(0, case.spec.vocab_size, (1, CAPACITY))
    decoder, other = case.decoder(), Int8Decoder(case.session, case.spec, CAPACITY)
    found = decoder.steps(ids, sizes)
    assert np.abs(found - other.steps(ids, [20] * 3 + [4])).max() < 20 * TOLERANCE
    with pytest.raises(Exception, match=r"(?i)total_seq|cos_cache|exceed|rotary|position|sequence"):
        decoder.step(ids[:, :1])


def test_a_ragged_batch_then_steps(case):
    lengths = np.array([30, 7, 1])
    rng = np.random.default_rng(7)
    ids, new = rng.integers(0, case.spec.vocab_size, (3, 30)), rng.integers(0, case.spec.vocab_size, (3, 4))
    batch = case.decoder(rows=3)
    prefill = batch.step(ids, (np.arange(30) < lengths[:, None]).astype(np.int64))
    steps = [
        batch.step(new[:, n : n + 1], (np.arange(31 + n) < lengths[:, None] + n + 1).astype(np.int64)) for n in range(4)
    ]
    for row, length in enumerate(lengths):
        alone = case.decoder()
        found = np.concatenate([prefill[row, :length], *(step[row] for step in steps)])
        expected = alone.steps(np.concatenate([ids[row, :length], new[row]])[None], [length, 1, 1, 1, 1])[0]
        assert np.abs(found - expected).max() < TOLERANCE


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> OrtBackend:
    folder, spec = tmp_path_factory.mktemp("backend"), SPECS["plain"]
    ids = np.random.default_rng(5).integers(0, spec.vocab_size, (1, LENGTH))
    session_of(lowered(spec, true_scales(spec, folder, ids)), folder)
    return OrtBackend(folder, manifest(), 1, MemoryBudget(None))


def manifest(**changes: object) -> Manifest:
    spec = SPECS["plain"]
    facts = ModelFacts("qwen3", 1, spec.layers, spec.hidden_size, spec.vocab_size, spec.context_length)
    cache = CacheSpec(**{"layers": 2, "kv_heads": 2, "head_dim": 16, "dtype": "int8", **changes})
    return manifest_of({}, model=facts, cache=cache)


def test_saved_blocks_replay_bit_for_bit(backend):
    """On one grid of chunks: a hit in the prefix cache makes the kernel calls that a cold start makes."""
    ids = np.random.default_rng(8).integers(0, 96, 60)
    cold, hit = backend.sequence(), backend.sequence()
    for start in (0, 24):
        cold.forward(ids[start : start + 24], keep=1)
    payload = cold.save(0, 24)
    expected = [cold.forward(ids[48 + n : 49 + n], keep=1).copy() for n in range(12)]
    assert (payload.dtype, payload.shape) == (np.int8, (4, 2, 24, 16))
    hit.restore(payload, 0, 24)
    hit.forward(ids[24:48], keep=1)
    assert all((hit.forward(ids[48 + n : 49 + n], keep=1) == expected[n]).all() for n in range(12))
    assert (hit.save(0, 60) == cold.save(0, 60)).all()


def test_both_paths_of_the_graph_agree_through_the_backend(backend):
    ids = np.random.default_rng(9).integers(0, 96, 2 * FEW_TOKENS + 1)
    few, many = backend.sequence(), backend.sequence()
    for start in (0, FEW_TOKENS, 2 * FEW_TOKENS):
        last = few.forward(ids[start : start + FEW_TOKENS], keep=1).copy()
    assert np.abs(last - many.forward(ids, keep=1)).max() < 1e-3


def test_a_cache_takes_a_quarter_of_the_float_bytes(backend):
    backend.budget.taken = 0
    backend.sequence().reserve(100)
    assert backend.budget.taken == 256 * 2 * 2 * 2 * 16
    assert manifest().cache.bytes_per_token * 4 == manifest(dtype="float32").cache.bytes_per_token


@pytest.mark.parametrize("slab_bytes", [1, 2500, 16 << 20])
def test_buffers_grow_and_keep_what_they_hold(backend, monkeypatch, slab_bytes):
    """Whatever number of buffers is cut from one piece of memory."""
    ids = np.random.default_rng(10).integers(0, 96, 50)
    whole = backend.sequence()
    expected = [whole.forward(ids[n : n + 1], keep=1).copy() for n in range(50)]
    monkeypatch.setattr(cache_buffers, "GROWTH", 8)
    monkeypatch.setattr(cache_buffers, "SLAB_BYTES", slab_bytes)
    growing = backend.sequence()
    assert all((growing.forward(ids[n : n + 1], keep=1) == expected[n]).all() for n in range(50))
    assert (growing.save(0, 50) == whole.save(0, 50)).all()


def test_a_manifest_that_calls_the_cache_float_is_refused(backend, tmp_path):
    spec = SPECS["plain"]
    ids = np.random.default_rng(5).integers(0, spec.vocab_size, (1, LENGTH))
    session_of(lowered(spec, true_scales(spec, tmp_path, ids)), tmp_path)
    with pytest.raises(BadInputError, match="other inputs or outputs than its manifest implies"):
        OrtBackend(tmp_path, manifest(dtype="float32"), 1, MemoryBudget(None))
