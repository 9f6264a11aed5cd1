"""Building engines over stand-ins: what the builder is asked for, resuming, and every refusal."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fake_gpu
import psutil
import pytest
from engine_cases import CONTEXT, build_here, run_here
from fake_cuda import FakeRuntime

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.locking import FolderLock
from inference_pio.build import pipeline, worker
from inference_pio.build.options import DEFAULT_CONTEXT, BuildOptions
from inference_pio.build.pipeline import build, run_worker
from inference_pio.build.worker import Job
from inference_pio.cli.main import run
from inference_pio.errors import BadInputError, InferencePioError, ResourceLimitError


@pytest.fixture
def gpu(monkeypatch):
    return fake_gpu.install(monkeypatch)


@pytest.fixture
def artifact(block_artifact):
    return block_artifact("fp32")


def files(report):
    return [engine.graph for engine in report.engines]


def test_every_block_and_the_head_become_engines(gpu, artifact, tmp_path):
    report = build_here(artifact, tmp_path)
    assert files(report) == ["block-00.onnx", "block-01.onnx", "head.onnx"]
    assert (report.gpu, report.tensorrt, report.cache_rows) == ("Fake GTX 1060", "8.5.3.1", CONTEXT)
    assert all((Path(report.folder) / f"{Path(name).stem}.engine").is_file() for name in files(report))
    assert not list(tmp_path.rglob("*.partial")) and not (Path(report.folder) / ".partial").exists()


def test_the_builder_is_asked_for_both_profiles(gpu, artifact, tmp_path):
    report = build_here(artifact, tmp_path)
    prefill, decode = json.loads((Path(report.folder) / "block-00.engine").read_text())["profiles"]
    width = Artifact.open(artifact).manifest.model.hidden_size
    assert prefill["hidden_states"] == [[1, 2, width], [1, 128, width], [1, 128, width]]
    assert decode["hidden_states"] == [[1, 1, width]] * 3
    assert [shape[1] for shape in decode["past_key_values.0.key"]] == [256, CONTEXT, CONTEXT]
    assert [shape for shape in prefill["new_bias"]] == [[2, 2], [128, 128], [128, 128]]


def test_options_reach_the_builder_and_timings_are_shared(gpu, artifact, tmp_path):
    build_here(artifact, tmp_path, workspace=1 << 20)
    assert all(config["limits"] == {"WORKSPACE": 1 << 20} and not config["int8"] for config in gpu.configs)
    assert [config["timing"] is not None for config in gpu.configs] == [False, True, True]


def test_newer_versions_get_a_strongly_typed_network(monkeypatch, block_artifact, tmp_path):
    gpu = fake_gpu.install(monkeypatch, "10.15.1.29")
    monkeypatch.setattr(pipeline, "_quantized", lambda manifest: True)
    report = build_here(block_artifact("fp32", "sm86"), tmp_path)
    assert gpu.strongly_typed == [True] * 3 and not any(config["int8"] for config in gpu.configs)
    assert all(config["preview"] is None for config in gpu.configs)
    decode = json.loads((Path(report.folder) / "block-00.engine").read_text())["profiles"][1]
    assert [shape[2] for shape in decode["past_key_values.0.key"]] == [4096] * 3
    assert [shape[3] for shape in decode["attention_bias"]] == [256, CONTEXT, CONTEXT]
    assert decode["write_indices"] == [[1]] * 3


def test_a_quantized_artifact_is_built_for_int8(gpu, block_artifact, tmp_path):
    build_here(block_artifact("w8a8-static"), tmp_path)
    assert all(config["int8"] and config["preview"] == ["FASTER"] for config in gpu.configs)
    assert gpu.strongly_typed == [False] * 3


def test_a_gpu_without_8_bit_products_is_refused(monkeypatch, block_artifact, tmp_path):
    fake_gpu.install(monkeypatch, runtime=FakeRuntime(capability=(6, 0)))
    with pytest.raises(BadInputError, match=r"compute capability 6\.0\) has no 8-bit products"):
        build_here(block_artifact("w8a8-static"), tmp_path)
    build_here(block_artifact("fp32"), tmp_path)


def test_what_is_there_is_kept(gpu, artifact, tmp_path):
    build_here(artifact, tmp_path)
    again = build_here(artifact, tmp_path)
    assert all(engine.reused for engine in again.engines)
    assert len(gpu.configs) == 3


def test_it_is_built_again_when_asked(gpu, artifact, tmp_path):
    build_here(artifact, tmp_path)
    assert not any(engine.reused for engine in build_here(artifact, tmp_path, force=True).engines)


def test_blocks_are_built_again_for_a_longer_context_and_the_head_is_not(gpu, artifact, tmp_path):
    build_here(artifact, tmp_path)
    for context, reused in ((700, [False, False, True]), (300, [True, True, True])):
        assert [engine.reused for engine in build_here(artifact, tmp_path, max_context=context).engines] == reused


def test_an_interrupted_build_goes_on(gpu, artifact, tmp_path):
    class Stop:
        def start(self, graph, number, total):
            if number == 3:
                raise KeyboardInterrupt

        def done(self, engine):
            pass

    with pytest.raises(KeyboardInterrupt):
        build(Artifact.open(artifact), BuildOptions(max_context=CONTEXT), tmp_path, Stop(), run_here)
    assert [engine.reused for engine in build_here(artifact, tmp_path).engines] == [True, True, False]


def test_an_artifact_for_another_target_is_refused(gpu, tiny_artifact, tmp_path):
    with pytest.raises(BadInputError, match="was exported for ort-cpu: export it with --target tensorrt"):
        build_here(tiny_artifact("fp32"), tmp_path)


def test_what_tensorrt_refuses_is_one_sentence(gpu, artifact, tmp_path):
    gpu.refuse = "node 3\n is strange"
    with pytest.raises(BadInputError, match=r"does not build .*block-00\.onnx \(node 3 is strange\)"):
        build_here(artifact, tmp_path)
    assert not list(tmp_path.rglob("*.engine"))


def test_without_polygraphy_the_extra_is_named(gpu, artifact, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "polygraphy", None)
    monkeypatch.setitem(sys.modules, "polygraphy.backend", None)
    with pytest.raises(BadInputError, match=r"Polygraphy cannot be imported .*inference-pio\[trt85\]"):
        build_here(artifact, tmp_path)


def test_too_little_host_memory_is_refused_with_the_number(gpu, artifact, tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000})())
    with pytest.raises(ResourceLimitError, match=r"building block-00\.onnx takes about \d+ MB of memory"):
        build_here(artifact, tmp_path)


def test_too_little_disk_is_refused_with_the_number(gpu, artifact, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda folder: type("Disk", (), {"free": 1000})())
    with pytest.raises(ResourceLimitError, match=r"the engine of block-00\.onnx takes about \d+ MB of disk"):
        build_here(artifact, tmp_path)


def test_two_builds_at_once_are_refused(gpu, artifact, tmp_path):
    report = build_here(artifact, tmp_path)
    lock = FolderLock(Path(report.folder) / ".partial")
    with pytest.raises(BadInputError, match="another process is building"):
        build_here(artifact, tmp_path, force=True)
    lock.release()


@pytest.mark.parametrize("values", [{"max_context": 0}, {"max_image_tokens": 0}, {"workspace": 0}, {"device": -1}])
def test_options_out_of_range_are_refused(values):
    with pytest.raises(BadInputError, match="must be at least"):
        BuildOptions(**values)


def test_engines_are_for_at_most_so_many_tokens_by_default(gpu, artifact, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(pipeline, "profiles", lambda graph, limits: asked.append(limits.cache_rows) or [])
    monkeypatch.setattr(worker, "_engine", lambda job, tensorrt: b"engine")
    build_here(artifact, tmp_path, max_context=None)
    assert set(asked) == {min(DEFAULT_CONTEXT, Artifact.open(artifact).manifest.model.context_length)}


def test_a_worker_without_tensorrt_fails_with_its_sentence(tmp_path):
    with pytest.raises(BadInputError, match="TensorRT cannot be imported"):
        run_worker(Job(str(tmp_path / "result"), "trt85"), tmp_path / "log")


@pytest.mark.parametrize(
    ("program", "kind", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ResourceLimitError, "ended by signal 9"),
        ("raise SystemError('strange')", InferencePioError, "SystemError: strange"),
    ],
)
def test_a_worker_that_dies_is_explained(tmp_path, monkeypatch, program, kind, message):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}"\n')
    python.chmod(0o755)
    monkeypatch.setattr(pipeline.sys, "executable", str(python))
    with pytest.raises(kind, match=message):
        run_worker(Job(str(tmp_path / "result"), "trt85", onnx="block-00.onnx"), tmp_path / "log")


def test_the_command_builds_and_says_what_it_made(gpu, artifact, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "run_worker", run_here)
    assert run(["build", str(artifact), "--max-context", str(CONTEXT)]) == 0
    shown = capsys.readouterr().out
    assert "block-00.onnx" in shown and "for Fake GTX 1060 with TensorRT 8.5.3.1, up to 512 tokens" in shown
    assert run(["build", str(artifact), "--max-context", str(CONTEXT), "--json", "-"]) == 0
    assert all(engine["reused"] for engine in json.loads(capsys.readouterr().out)["engines"])


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "hardware"), [("fp32", "sm61"), ("fp16", "sm86"), ("w8a8-static", "sm86")])
def test_a_real_builder_makes_the_engines(block_artifact, tmp_path, precision, hardware):
    pytest.importorskip("tensorrt", reason="needs TensorRT and a GPU")
    pytest.importorskip("polygraphy", reason="needs Polygraphy")
    try:
        artifact = Artifact.open(block_artifact(precision, hardware))
        report = build(artifact, BuildOptions(max_context=CONTEXT), tmp_path)
    except BadInputError as error:
        pytest.skip(str(error))
    assert len(report.engines) == 3
