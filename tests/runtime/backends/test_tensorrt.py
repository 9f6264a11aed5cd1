"""The TensorRT runner over stand-ins that compute: the same logits as ONNX Runtime, and every refusal."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fake_gpu
import numpy as np
import pytest
from engine_cases import CONTEXT, HARDWARE, build_here, only_trt85, opened
from fake_cuda import FakeRuntime

from inference_pio.cli.main import run
from inference_pio.errors import BadInputError, InferencePioError, ResourceLimitError
from inference_pio.runtime import SamplingParams
from inference_pio.runtime.backends.cuda_library import Cuda
from inference_pio.runtime.backends.tensorrt_engines import RESERVE

sys.path.insert(0, str(Path(__file__).parents[2]))
from block_cases import export_blocks
from shapes import write_shape

PROMPT = "In the beginning"
all_types = pytest.mark.parametrize("dialect", ["trt85", "modern", "half"], indirect=True)


@pytest.fixture
def artifact(block_artifact, dialect):
    return block_artifact("fp16" if dialect == "half" else "fp32", HARDWARE[dialect])


@pytest.fixture
def built(gpu, artifact, cache):
    build_here(artifact, cache)
    return artifact


@all_types
def test_the_engines_answer_as_the_files_they_were_built_from(gpu, built, cache):
    params = SamplingParams(max_new_tokens=12, temperature=0, ignore_eos=True)
    with opened(built, cache) as engine, opened(built, cache, "chain") as chain:
        ids = engine.tokenizer.encode(PROMPT * 40)
        assert len(ids) > 128
        assert np.array_equal(engine.logits(ids), chain.logits(ids))
        ours, theirs = engine.generate(PROMPT, params), chain.generate(PROMPT, params)
    assert ours.token_ids == theirs.token_ids
    assert gpu.runtime.calls["cudaGraphLaunch"] >= 20


@only_trt85
def test_host_memory_that_ends_is_freed_once(gpu, built, cache, monkeypatch):
    def refused(cuda: Cuda, size: int) -> int:
        raise ResourceLimitError("nothing is free")

    with opened(built, cache) as engine:
        held = len(gpu.runtime.held)
        taken = engine._opened.budget.taken
        engine.logits([5])
        monkeypatch.setattr(Cuda, "allocate_host", refused)
        with pytest.raises(ResourceLimitError, match="nothing is free"):
            engine.logits([5, 6])
        assert (len(gpu.runtime.held), engine._opened.budget.taken) == (held, taken)


@pytest.mark.parametrize("shape", ["moe", "glm"])
def test_hybrids_fetch_what_their_experts_read(gpu, dialect, shape, cache, tmp_path):
    checkpoint = write_shape(shape, tmp_path / "checkpoint")
    artifact = export_blocks(checkpoint, tmp_path / "out", hardware=HARDWARE[dialect])
    build_here(artifact, cache, max_context=256)
    ids = np.random.default_rng(0).integers(0, 2000, 20)
    with opened(artifact, cache) as engine, opened(artifact, cache, "chain") as chain:
        assert np.array_equal(engine.logits(ids), chain.logits(ids))
        params = SamplingParams(max_new_tokens=4, temperature=0, ignore_eos=True)
        assert engine.generate(ids.tolist(), params).token_ids == chain.generate(ids.tolist(), params).token_ids
        width = engine.manifest.model.hidden_size
    assert {size for size in gpu.runtime.fetched if size < 2000 * 4} == {width * 4, 20 * width * 4}


def test_decoding_is_recorded_once_per_block(gpu, built, cache):
    with opened(built, cache, prefix_cache_bytes=0) as engine:
        engine.generate(PROMPT, SamplingParams(max_new_tokens=20, temperature=0, ignore_eos=True))
        blocks = sum(graph.role == "block" for graph in engine.manifest.graphs)
    assert gpu.runtime.calls["cudaStreamBeginCapture"] == blocks
    assert not gpu.runtime.graphs


def test_a_graph_is_recorded_anew_when_its_buffers_moved(gpu, built, cache):
    params = SamplingParams(max_new_tokens=4, temperature=0, ignore_eos=True)
    with opened(built, cache, prefix_cache_bytes=0) as engine, opened(built, cache, "chain") as chain:
        prompts = [PROMPT, PROMPT * 15, PROMPT * 60, PROMPT]
        ours = [engine.generate(prompt, params).token_ids for prompt in prompts]
        assert ours == [chain.generate(prompt, params).token_ids for prompt in prompts]


def test_two_sequences_in_turn_do_not_disturb_each_other(gpu, built, cache):
    params = SamplingParams(max_new_tokens=8, temperature=0, ignore_eos=True)
    with opened(built, cache, prefix_cache_bytes=0) as engine:
        prompts = [PROMPT, PROMPT * 70]
        alone = [engine.generate(prompt, params).token_ids for prompt in prompts]
        streams = [engine.stream(prompt, params) for prompt in prompts]
        ends = [None, None]
        for _ in range(9):
            for index, stream in enumerate(streams):
                ends[index] = next(stream, ends[index])
        assert [end.result.token_ids for end in ends] == alone


@all_types
def test_a_prefix_comes_back_from_the_cache(gpu, built, cache):
    with opened(built, cache) as engine:
        params = SamplingParams(max_new_tokens=4, temperature=0, ignore_eos=True)
        cold, warm = engine.generate(PROMPT * 40, params), engine.generate(PROMPT * 40, params)
    assert warm.usage.cached_tokens > 0
    assert warm.token_ids == cold.token_ids


def test_only_logits_come_to_the_host(gpu, built, cache):
    with opened(built, cache, prefix_cache_bytes=0) as engine:
        engine.generate(PROMPT, SamplingParams(max_new_tokens=3, temperature=0, ignore_eos=True))
        assert set(gpu.runtime.fetched) == {engine.manifest.model.vocab_size * 4}


@only_trt85
def test_everything_is_given_back(gpu, built, cache):
    with opened(built, cache) as engine:
        engine.generate(PROMPT, SamplingParams(max_new_tokens=4))
        assert gpu.runtime.used > 0
    assert gpu.runtime.used == 0


@only_trt85
def test_verify_judges_the_engines(gpu, built, cache, tiny, capsys):
    arguments = ["verify", str(built), "--against", str(tiny), "--backend", "tensorrt", "--positions", "128"]
    assert run([*arguments, "--threads", "1", "--no-simulation", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["gate"]["passed"]
    assert len(gpu.runtime.fetched) == 1


def test_without_tensorrt_the_extra_is_named(block_artifact, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BadInputError, match=r"inference-pio\[trt85\].*backend chain"):
        opened(block_artifact("fp32"), cache)


def test_another_version_is_refused(block_artifact, cache, monkeypatch):
    fake_gpu.install(monkeypatch, version="10.15.1.29")
    with pytest.raises(BadInputError, match=r"TensorRT 10\.15\.1\.29 is installed, and dialect trt85 needs"):
        opened(block_artifact("fp32"), cache)


@only_trt85
def test_without_engines_build_is_named(gpu, artifact, cache):
    with pytest.raises(BadInputError, match=r"no engine of block-00\.onnx for Fake GTX 1060.*inference-pio build"):
        opened(artifact, cache)


@only_trt85
def test_engines_of_another_version_do_not_count(built, cache, monkeypatch):
    fake_gpu.install(monkeypatch, version="8.6.1")
    with pytest.raises(BadInputError, match=r"TensorRT 8\.6\.1 \(only for Fake GTX 1060 with TensorRT 8\.5\.3\.1\)"):
        opened(built, cache)


@only_trt85
def test_a_changed_engine_is_refused(built, cache):
    next(cache.glob("engines/*/block-01.engine")).write_bytes(b"other")
    with pytest.raises(BadInputError, match="has changed since it was built"):
        opened(built, cache)


@only_trt85
def test_a_folder_that_others_write_to_is_refused(built, cache):
    (cache / "engines").chmod(0o777)
    with pytest.raises(BadInputError, match="others can write to"):
        opened(built, cache)


@only_trt85
def test_engines_larger_than_the_gpu_are_refused_before_they_are_loaded(built, cache, monkeypatch):
    small = fake_gpu.install(monkeypatch, runtime=FakeRuntime(memory=RESERVE))
    with pytest.raises(ResourceLimitError, match=r"the engines need .* MB of GPU memory"):
        opened(built, cache)
    assert "cudaMalloc" not in small.runtime.calls


def test_a_cache_larger_than_the_gpu_is_refused_with_its_size(gpu, built, cache):
    with opened(built, cache) as engine:
        gpu.runtime.memory = gpu.runtime.used
        with pytest.raises(ResourceLimitError, match=r"a cache of \d+ rows needs .* MB more of GPU memory"):
            engine.generate(PROMPT)


def test_more_tokens_than_the_engines_take_are_refused(gpu, built, cache):
    with opened(built, cache) as engine, pytest.raises(ResourceLimitError, match="larger --max-context"):
        engine.logits(engine.tokenizer.encode(PROMPT * 400)[: CONTEXT + 1])


@only_trt85
def test_closing_ends_a_stream_with_one_sentence(gpu, built, cache):
    engine = opened(built, cache)
    stream = engine.stream(PROMPT, SamplingParams(max_new_tokens=9, temperature=0, ignore_eos=True))
    next(stream)
    engine.close()
    with pytest.raises(BadInputError, match="closed"):
        list(stream)
    assert gpu.runtime.used == 0


@only_trt85
def test_a_failure_of_tensorrt_is_one_sentence(gpu, built, cache, monkeypatch):
    monkeypatch.setattr(fake_gpu.FakeContext, "execute_async_v3", lambda self, stream: False)
    with opened(built, cache) as engine, pytest.raises(InferencePioError, match=r"TensorRT failed in block-00\.onnx"):
        engine.generate(PROMPT)


@only_trt85
@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_the_gpu_may_be_named(gpu, built, cache, device):
    with opened(built, cache, device=device) as engine, opened(built, cache, "chain") as chain:
        assert np.array_equal(engine.logits([5, 6, 7]), chain.logits([5, 6, 7]))


@only_trt85
@pytest.mark.parametrize(
    ("backend", "device", "message"),
    [
        ("tensorrt", "cuda:1", "no GPU 1: this machine has 1"),
        ("tensorrt", "cpu", "backend tensorrt does not run on device cpu: use device auto, or backend chain"),
        ("chain", "cuda", "backend chain runs on the CPU, not on device cuda: use device auto, or backend tensorrt"),
    ],
)
def test_a_device_that_the_backend_does_not_run_on(gpu, built, cache, backend, device, message):
    with pytest.raises(BadInputError, match=message):
        opened(built, cache, backend, device=device)


@only_trt85
def test_an_artifact_that_does_not_open_leaves_nothing_on_the_gpu(gpu, built, cache, monkeypatch):
    monkeypatch.setattr(fake_gpu.FakeContext, "set_optimization_profile_async", lambda self, profile, stream: False)
    with pytest.raises(InferencePioError, match="TensorRT refuses profile 0 of an engine"):
        opened(built, cache)
    assert gpu.runtime.used == 0 and gpu.runtime.calls["cudaStreamDestroy"] == 1
