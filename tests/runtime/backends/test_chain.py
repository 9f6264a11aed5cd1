"""The chain of blocks: biases, buckets, saved rows, prompts, and what is refused at load."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.cache_rows import BUCKET, rounded_up
from inference_pio.errors import BadInputError, ResourceLimitError
from inference_pio.runtime import Engine, EngineConfig, SamplingParams
from inference_pio.runtime.backends import ort_session
from inference_pio.runtime.backends.chain import ChainBackend, biases
from inference_pio.runtime.backends.chain_ort import SIGNED_PRODUCTS, OrtBlocks, OrtBlockState
from inference_pio.runtime.backends.choose import open_backend
from inference_pio.runtime.memory import MemoryBudget

sys.path.insert(0, str(Path(__file__).parents[2]))
from block_cases import open_chain

IDS = np.random.default_rng(0).integers(0, 2000, 40)
CHAIN = EngineConfig(backend="chain", threads=1)


@pytest.fixture(scope="module")
def path(block_artifact) -> Path:
    return block_artifact("fp32")


@pytest.fixture(scope="module")
def artifact(path) -> Artifact:
    return Artifact.open(path)


def load(artifact: Artifact, limit: int | None = None, **changes: object) -> ChainBackend:
    return open_backend(artifact.path, replace(artifact.manifest, **changes), CHAIN, 1, MemoryBudget(limit), None)


@pytest.fixture(scope="module")
def backend(artifact) -> ChainBackend:
    return load(artifact)


@pytest.fixture(scope="module")
def expected(backend) -> np.ndarray:
    return backend.sequence().forward(IDS, keep=len(IDS)).copy()


@pytest.mark.parametrize("window", [None, 1, 3, 300])
@pytest.mark.parametrize(("length", "count"), [(0, 5), (7, 1), (255, 1), (256, 2), (300, 4)])
def test_biases_say_who_sees_whom(length, count, window):
    bound = rounded_up(max(length, 1))
    past, new = biases(length, count, bound, window)
    assert past.dtype == new.dtype == np.float32
    assert (past.shape, new.shape, bound % BUCKET) == ((count, bound), (count, count), 0)
    for row in range(count):
        place = length + row
        seen = [p for p in range(place + 1) if window is None or p > place - window]
        assert [p for p in range(bound) if past[row, p] == 0] == [p for p in seen if p < length]
        assert [length + p for p in range(count) if new[row, p] == 0] == [p for p in seen if p >= length]
    assert set(np.unique(past)) | set(np.unique(new)) <= {np.float32(0), np.float32(-1e30)}


@pytest.mark.parametrize("sizes", [[1] * 40, [39, 1], [7, 1, 1, 20, 1, 10]])
def test_steps_of_any_size(backend, expected, sizes):
    sequence, done = backend.sequence(), 0
    for size in sizes:
        keep = min(size, 3)
        found = sequence.forward(IDS[done : done + size], keep)
        done += size
        assert found.shape == (keep, 2048)
        assert np.abs(found - expected[done - keep : done]).max() < 1e-4
    assert sequence.run_seconds > 0


def test_a_cleared_sequence_sees_nothing_of_the_last_one(backend, expected):
    sequence = backend.sequence()
    sequence.forward(IDS[::-1], keep=1)
    sequence.clear()
    assert np.array_equal(sequence.forward(IDS, keep=40), expected)  # rows of the last one are hidden exactly


def test_saved_rows_come_back(backend, expected):
    one, other = backend.sequence(), backend.sequence()
    one.forward(IDS[:30], keep=1)
    other.restore(one.save(0, 20), 0, 20)
    other.restore(one.save(20, 30), 20, 30)
    assert np.array_equal(other.forward(IDS[30:], keep=10), one.forward(IDS[30:], keep=10))


def test_the_cache_is_budgeted(artifact):
    backend = load(artifact, limit=BUCKET * artifact.manifest.cache.bytes_per_token)
    sequence = backend.sequence()
    sequence.reserve(BUCKET)
    with pytest.raises(ResourceLimitError, match=f"a key/value cache of {2 * BUCKET} tokens"):
        sequence.reserve(BUCKET + 1)
    sequence.release()
    assert backend.budget.taken == 0


def test_a_refused_request_gives_the_budget_back(path, monkeypatch):
    reserve = OrtBlockState.reserve

    def limited(state: OrtBlockState, capacity: int, used: int) -> None:
        if capacity > BUCKET:
            raise ResourceLimitError("nothing is free")
        reserve(state, capacity, used)

    monkeypatch.setattr(OrtBlockState, "reserve", limited)
    with open_chain(path) as engine:
        taken = engine._opened.budget.taken
        with pytest.raises(ResourceLimitError, match="nothing is free"):
            engine.generate([1] * (BUCKET + 1))
        assert engine._opened.budget.taken == taken
        assert engine.generate([1], SamplingParams(max_new_tokens=2, temperature=0)).token_ids


def test_the_same_text_as_on_ort_cpu_with_and_without_the_prefix_cache(path, tiny_artifact):
    prompt, params = "def read_file(path):\n    " * 40, SamplingParams(max_new_tokens=12, temperature=0)
    with Engine.open(tiny_artifact("fp32")) as engine:
        expected = engine.generate(prompt, params).token_ids
    with open_chain(path) as engine:
        cold, warm = (engine.generate(prompt, params) for _ in range(2))
    assert cold.usage.cached_tokens == 0 and warm.usage.cached_tokens >= 128
    assert cold.token_ids == warm.token_ids == expected


def test_cpus_whose_products_saturate_give_the_same_logits(block_artifact, monkeypatch):
    """They need weights made unsigned, and multiply in float32 what an activation shares."""
    artifact = Artifact.open(block_artifact("w8a8-static"))
    found = load(artifact).sequence().forward(IDS, keep=40)
    monkeypatch.setattr(ort_session, "products_saturate", lambda ort: True)
    other = load(artifact)
    assert not set(SIGNED_PRODUCTS) & set(ort_session.session_entries(None))
    apart = np.abs(other.sequence().forward(IDS, keep=40) - found)
    assert apart[0].max() < 1e-4
    assert apart.mean() < 0.03  # of 3.3; a code that falls to the other side moves all later tokens a little


def test_without_tensorrt_the_extra_and_the_chain_are_named(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BadInputError, match=r"inference-pio\[trt85\].*backend chain"):
        Engine.open(path)


def test_blocks_are_closed_when_the_rest_does_not_fit(artifact, monkeypatch):
    closed = []
    monkeypatch.setattr(OrtBlocks, "close", lambda blocks: closed.append(blocks))
    with pytest.raises(BadInputError, match="rotary frequencies"):
        load(artifact, positions=None)
    assert len(closed) == 1


@pytest.mark.parametrize("asked", ["ort"])
def test_a_backend_of_another_target_is_refused(path, asked):
    with pytest.raises(BadInputError, match="backend ort does not run target tensorrt/trt85: use tensorrt or chain"):
        Engine.open(path, EngineConfig(backend=asked))


def test_a_gpu_is_for_tensorrt(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BadInputError, match="TensorRT cannot be imported"):
        Engine.open(path, EngineConfig(device="cuda:1"))


def test_a_chain_needs_blocks(tiny_artifact):
    with pytest.raises(BadInputError, match="backend chain does not run target ort-cpu: use ort"):
        Engine.open(tiny_artifact("fp32"), CHAIN)


def test_weights_of_blocks_are_not_mapped(path):
    with pytest.raises(BadInputError, match="cut into blocks, which are loaded: leave map_weights out"):
        Engine.open(path, EngineConfig(backend="chain", map_weights="on"))


def broken(artifact: Artifact) -> dict[str, dict[str, object]]:
    """Changes of a manifest that make it lie."""
    manifest = artifact.manifest
    graphs, table, cache, positions = manifest.graphs, manifest.table, manifest.cache, manifest.positions
    assert table is not None and positions is not None
    renamed = replace(graphs[0].inputs[0], name="other")
    return {
        "a layer too few": {"graphs": graphs[1:]},
        "blocks out of order": {"graphs": [graphs[1], graphs[0], *graphs[2:]]},
        "no head": {"graphs": [graph for graph in graphs if graph.role != "head"]},
        "another head size": {"cache": replace(cache, head_dim=32)},
        "another input": {"graphs": [replace(graphs[0], inputs=[renamed, *graphs[0].inputs[1:]]), *graphs[1:]]},
        "no table": {"table": None},
        "no frequencies": {"positions": None},
        "a table behind its file": {"table": replace(table, offset=table.offset + 1 << 20)},
        "a table of another size": {"table": replace(table, rows=table.rows - 1)},
        "scales without integers": {"table": replace(table, scales_offset=0)},
        "a table in no listed file": {"table": replace(table, file="manifest.json")},
        "a thousand million layers": {"cache": replace(cache, layers=10**9)},
        "a kind twice": {"cache": replace(cache, kinds=["key", "key"])},
        "a kind too few": {"cache": replace(cache, kinds=["key"])},
        "another cache type": {"cache": replace(cache, dtype="int8")},
        "a block of no layers": {"graphs": [replace(graphs[0], layers=[]), *graphs]},
        "the head first": {"graphs": [graphs[-1], *graphs[:-1]]},
        "two heads": {"graphs": [*graphs, graphs[-1]]},
        "experts that nobody asks": {"graphs": [*graphs, replace(graphs[-1], role="experts", layers=[0])]},
        "experts of no layer": {"graphs": [*graphs, replace(graphs[-1], role="experts", layers=[])]},
        "frequencies of another head": {"positions": replace(positions, inverse_frequencies=[1.0], streams=[0])},
        "streams too few": {"positions": replace(positions, streams=[0])},
    }


@pytest.mark.parametrize("change", range(22))
def test_manifests_that_lie_are_refused(artifact, change):
    name, changes = list(broken(artifact).items())[change]
    with pytest.raises(BadInputError):
        load(artifact, **changes)
        pytest.fail(f"{name} was accepted")
