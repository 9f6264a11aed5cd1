"""Sequences on ONNX Runtime: growing buffers, saved and restored blocks, budgets, and what is refused at load."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.errors import BadInputError, InferencePioError, ResourceLimitError
from inference_pio.runtime.backends import cache_buffers, ort_sequence
from inference_pio.runtime.backends.cache_buffers import GROWTH
from inference_pio.runtime.backends.ort import OrtBackend, import_onnxruntime
from inference_pio.runtime.memory import MemoryBudget

IDS = np.random.default_rng(0).integers(0, 2000, 40)


@pytest.fixture(scope="module")
def artifact(tiny_artifact) -> Artifact:
    return Artifact.open(tiny_artifact("fp32"))


def load(artifact: Artifact, limit: int | None = None, **changes: object) -> OrtBackend:
    return OrtBackend(artifact.path, replace(artifact.manifest, **changes), 1, MemoryBudget(limit))


@pytest.fixture(scope="module")
def backend(artifact) -> OrtBackend:
    return load(artifact)


@pytest.fixture(scope="module")
def expected(backend) -> np.ndarray:
    return backend.sequence().forward(IDS, keep=len(IDS)).copy()


@pytest.mark.parametrize("sizes", [[1] * 40, [39, 1], [1, 39], [7, 1, 1, 20, 1, 10], [20, 20]])
def test_steps_of_any_size(backend, expected, sizes):
    sequence, done = backend.sequence(), 0
    for size in sizes:
        keep = min(size, 3)
        found = sequence.forward(IDS[done : done + size], keep)
        done += size
        assert sequence.length == done
        assert found.shape == (keep, backend.vocab_size)
        assert np.abs(found - expected[done - keep : done]).max() < 1e-4
    assert sequence.run_seconds > 0


def test_a_cleared_sequence_starts_again(backend, expected):
    sequence = backend.sequence()
    sequence.forward(IDS[::-1], keep=1)
    sequence.clear()
    assert (sequence.length, sequence.run_seconds) == (0, 0.0)
    assert np.abs(sequence.forward(IDS, keep=40) - expected).max() < 1e-4


def test_buffers_grow_and_keep_what_they_hold(backend, expected, monkeypatch):
    monkeypatch.setattr(cache_buffers, "GROWTH", 8)
    sequence, found = backend.sequence(), []
    for token in IDS:
        found.append(sequence.forward(np.array([token]), keep=1)[0].copy())
    assert np.abs(np.array(found) - expected).max() < 1e-4


def test_saved_blocks_are_restored_bit_for_bit(backend, expected):
    first, second = backend.sequence(), backend.sequence()
    first.forward(IDS[:24], keep=1)
    payloads = [first.save(start, start + 8) for start in (0, 8, 16)]
    first.clear()
    first.forward(IDS[::-1], keep=1)  # payloads are copies
    for index, payload in enumerate(payloads):
        second.restore(payload, 8 * index, 8 * index + 8)
    assert second.length == 24
    assert (second.save(0, 24) == np.concatenate(payloads, axis=2)).all()
    assert np.abs(second.forward(IDS[24:], keep=16) - expected[24:]).max() < 1e-4


def test_sequences_do_not_share_anything(backend, expected):
    one, other = backend.sequence(), backend.sequence()
    for start in range(0, 40, 8):
        found = one.forward(IDS[start : start + 8], keep=8).copy()
        other.forward(IDS[::-1][start : start + 8], keep=8)
        assert np.abs(found - expected[start : start + 8]).max() < 1e-4


def test_buffers_count_against_the_budget(artifact):
    per_token = artifact.manifest.memory.cache_bytes_per_token
    backend = load(artifact, limit=2 * GROWTH * per_token)
    sequence = backend.sequence()
    sequence.reserve(10)
    assert backend.budget.taken == GROWTH * per_token
    sequence.reserve(GROWTH + 1)
    assert backend.budget.taken == 2 * GROWTH * per_token
    with pytest.raises(ResourceLimitError, match=f"a key/value cache of {3 * GROWTH} tokens needs"):
        sequence.reserve(2 * GROWTH + 1)
    with pytest.raises(ResourceLimitError):
        backend.sequence().reserve(1)
    sequence.forward(IDS, keep=1)
    sequence.release()
    assert backend.budget.taken == 0


def test_memory_that_the_system_does_not_give(backend, monkeypatch):
    def refused(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ort_sequence, "host_buffers", refused)
    with pytest.raises(ResourceLimitError, match="there is no memory for a key/value cache of 256 tokens: ask"):
        backend.sequence().reserve(1)


def test_an_error_inside_the_library_leaves_the_backend_usable(backend, expected):
    sequence = backend.sequence()
    with pytest.raises(InferencePioError, match="ONNX Runtime failed at position 1"):
        sequence.forward(np.array([10**6]), keep=1)
    sequence.clear()
    assert np.abs(sequence.forward(IDS, keep=40) - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("needed", "fine"), [("1.0", True), ("1.31", True), ("1.999", False), ("2", False), ("99.1", False)]
)
def test_versions(artifact, needed, fine):
    requires = replace(artifact.manifest.requires, packages={"onnxruntime": needed})
    if fine:
        load(artifact, requires=requires).close()
    else:
        with pytest.raises(BadInputError, match=f"needs onnxruntime {needed} or newer and .* is installed"):
            load(artifact, requires=requires)


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BadInputError, match=r"pip install 'inference-pio\[cpu\]'"):
        import_onnxruntime()


@pytest.mark.parametrize(
    ("field", "value"), [("layers", 4), ("layers", 6), ("layers", 1 << 40), ("kv_heads", 3), ("head_dim", 8)]
)
def test_a_cache_that_is_not_the_graphs(artifact, field, value):
    with pytest.raises(BadInputError, match="other inputs or outputs than its manifest implies"):
        load(artifact, cache=replace(artifact.manifest.cache, **{field: value}))


def test_nothing_is_printed_when_a_graph_does_not_load(artifact, tmp_path, capfd):
    (tmp_path / "model.onnx").write_bytes((artifact.path / "model.onnx").read_bytes())
    with pytest.raises(BadInputError, match="cannot be loaded by ONNX Runtime") as caught:
        OrtBackend(Path(tmp_path), artifact.manifest, 1, MemoryBudget(None))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
