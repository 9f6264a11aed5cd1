"""Sequences on a device, run on the host's memory: the same answers as a sequence of the CPU's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.errors import BadInputError, ResourceLimitError
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.runtime import Engine, EngineConfig, SamplingParams
from inference_pio.runtime.backends.cache_buffers import GROWTH
from inference_pio.runtime.backends.device_memory import HostMemory
from inference_pio.runtime.backends.ort import OrtBackend
from inference_pio.runtime.candidates import Candidates, Query
from inference_pio.runtime.memory import MemoryBudget

PROMPTS = ["def main(self):\n    return", "import os\n" * 150 + "class A"]
CPU = EngineConfig(device="cpu", threads=1)


@pytest.fixture(scope="module")
def artifact(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    options = ExportOptions(target="ort-cuda", hardware="sm61", precision="fp32")
    return export(tiny, tmp_path_factory.mktemp("cuda") / "fp32", options)


@pytest.fixture(scope="module")
def backend(artifact: Artifact) -> OrtBackend:
    return OrtBackend(artifact.path, artifact.manifest, 1, MemoryBudget(None), memory=HostMemory())


def tokens_of(path: Path, params: SamplingParams) -> list[tuple[int, ...]]:
    with Engine.open(path, CPU) as engine:
        return [result.token_ids for result in engine.generate(PROMPTS, params)]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_new_tokens=24, temperature=0.0),
        SamplingParams(max_new_tokens=24, temperature=0.8, top_k=20, seed=1, repetition_penalty=1.1),
    ],
    ids=["greedy", "sampled"],
)
def test_tokens_are_those_of_ort_cpu(
    artifact: Artifact, tiny_artifact: Callable[[str], Path], params: SamplingParams
) -> None:
    assert tokens_of(artifact.path, params) == tokens_of(tiny_artifact("fp32"), params)


def test_logits_and_prefixes(artifact: Artifact, tiny_artifact: Callable[[str], Path]) -> None:
    ids = list(range(5, 305))
    with Engine.open(tiny_artifact("fp32"), CPU) as plain, Engine.open(artifact.path, CPU) as engine:
        assert np.abs(engine.logits(ids) - plain.logits(ids)).max() < 1e-4
        cold, warm = (engine.generate(ids, SamplingParams(max_new_tokens=8, logprobs=3)) for _ in range(2))
        assert (cold.usage.cached_tokens, warm.usage.cached_tokens) == (0, 256)
        assert cold.token_ids == warm.token_ids
        other = plain.generate(ids, SamplingParams(max_new_tokens=8, logprobs=3))
        for ours, theirs in zip(cold.logprobs, other.logprobs, strict=True):
            assert [token for token, _ in ours.top] == [token for token, _ in theirs.top]
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)


def test_only_candidates_come_back(backend: OrtBackend) -> None:
    sequence = backend.sequence()
    found = sequence.advance(np.array([5, 6, 7]), Query((0.7, 1.0), np.array([9, 2])))
    assert isinstance(found, Candidates)
    assert (found.ids.shape, found.masses.shape, found.seen_logits.shape) == ((128,), (2,), (2,))
    whole = found.fetch()
    assert np.array_equal(whole[found.ids], found.logits) and np.array_equal(found.seen_logits, whole[[9, 2]])


def test_a_cache_that_grows_keeps_its_rows(backend: OrtBackend) -> None:
    ids = np.arange(5, 5 + GROWTH)
    long, short = backend.sequence(), backend.sequence()
    long.reserve(4 * GROWTH)
    for sequence in (long, short):
        sequence.forward(ids, 1)
    saved = short.save(3, 40)
    assert np.array_equal(long.save(3, 40), saved) and saved.any()
    expected, found = long.forward(ids[:2], 2).copy(), short.forward(ids[:2], 2)
    assert np.array_equal(expected, found)
    again = backend.sequence()
    again.restore(short.save(0, GROWTH), 0, GROWTH)
    assert np.array_equal(again.forward(ids[:2], 2), expected)


def test_a_cache_beyond_the_device(artifact: Artifact) -> None:
    class Full(HostMemory):
        def free_bytes(self) -> int | None:
            return 1_000_000

    backend = OrtBackend(artifact.path, artifact.manifest, 1, MemoryBudget(None), memory=Full())
    with pytest.raises(ResourceLimitError, match=r"a key/value cache of 256 tokens needs \d+ MB on the GPU and 1 MB"):
        backend.sequence().forward(np.array([5]), 1)


def test_memory_that_ends_while_a_cache_grows(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request starts anew, and the budget has back what the refused one took."""
    zero, calls = HostMemory.zero, []

    def failing(memory: HostMemory, address: int, size: int) -> None:
        calls.append(size)
        if len(calls) == 3:
            raise ResourceLimitError("nothing is free")
        zero(memory, address, size)

    params = SamplingParams(max_new_tokens=4, temperature=0.0)
    with Engine.open(artifact.path, CPU) as engine:
        taken, expected = engine._opened.budget.taken, engine.generate(PROMPTS[1], params).token_ids
    with Engine.open(artifact.path, CPU) as engine:
        monkeypatch.setattr(HostMemory, "zero", failing)
        with pytest.raises(ResourceLimitError, match="nothing is free"):
            engine.generate(PROMPTS[1], params)
        assert engine._opened.budget.taken == taken
        assert engine.generate(PROMPTS[1], params).token_ids == expected


def test_memory_that_onnx_runtime_does_not_get(backend: OrtBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    class Value(backend.ort.OrtValue):  # type: ignore[name-defined, misc]
        @staticmethod
        def ortvalue_from_shape_and_type(*_: object) -> None:
            raise RuntimeError("Failed to allocate memory\nmore lines")

    sequence = backend.sequence()
    monkeypatch.setattr(backend.ort, "OrtValue", Value)
    with pytest.raises(ResourceLimitError, match=r"float32 \[.*\] \(Failed to allocate memory\): ask"):
        sequence.forward(np.array([5]), 1)


def test_buffers_go_back_to_the_device_when_a_cache_grows_and_ends(backend: OrtBackend) -> None:
    memory, count = backend.memory, 2 * backend.spec.layers
    assert isinstance(memory, HostMemory)
    before = len(memory._held)
    sequence = backend.sequence()
    for tokens in (1, GROWTH + 1, 4 * GROWTH):
        sequence.reserve(tokens)
        assert len(memory._held) == before + count
    sequence.release()
    assert len(memory._held) == before


def test_a_graph_without_candidates(tiny_artifact: Callable[[str], Path]) -> None:
    plain = Artifact.open(tiny_artifact("fp32"))
    with pytest.raises((BadInputError, KeyError)):
        OrtBackend(plain.path, plain.manifest, 1, MemoryBudget(None), memory=HostMemory())
    with pytest.raises(BadInputError, match=r"was exported for ort-cpu: open it with device 'cpu', or export it with"):
        Engine.open(plain.path, replace(CPU, device="cuda"))


def test_operators_that_the_cpu_lacks(tiny: Path, tmp_path: Path) -> None:
    options = ExportOptions(target="ort-cuda", hardware="sm86", precision="fp16", layers=1, threads=1)
    words = "the CPU cannot run this artifact, which was made for a GPU"
    with (
        Engine.open(export(tiny, tmp_path / "half", options).path, CPU) as engine,
        pytest.raises(BadInputError, match=words),
    ):
        engine.generate("import")


def test_weights_are_not_mapped(artifact: Artifact) -> None:
    with pytest.raises(BadInputError, match="leave map_weights out"):
        Engine.open(artifact.path, replace(CPU, map_weights="on"))


def test_a_gpu_is_asked_for_where_there_is_none(artifact: Artifact) -> None:
    with pytest.raises(BadInputError, match=r"no CUDA provider: pip uninstall onnxruntime, then pip install"):
        Engine.open(artifact.path)
