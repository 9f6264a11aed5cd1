"""A vision tower becomes an engine: the images it takes, resuming, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import fake_gpu
import psutil
import pytest
from engine_cases import CONTEXT, build_here, run_here

from inference_pio.artifact.bundle import Artifact
from inference_pio.build import pipeline
from inference_pio.build.limits import limits_of
from inference_pio.build.options import DEFAULT_IMAGE_TOKENS, BuildOptions
from inference_pio.cli.main import run
from inference_pio.errors import BadInputError, ResourceLimitError

FILES = ["block-00.onnx", "head.onnx", "vision.onnx"]
VERSIONS = {"sm61": "8.5.3.1", "sm86": "10.15.1.29"}


@pytest.fixture
def gpu(monkeypatch):
    return fake_gpu.install(monkeypatch)


@pytest.fixture
def artifact(vision_blocks):
    return vision_blocks("sm61")


@pytest.mark.parametrize("hardware", VERSIONS)
def test_the_tower_is_built_for_one_image_of_any_size_up_to_the_largest(monkeypatch, vision_blocks, tmp_path, hardware):
    gpu = fake_gpu.install(monkeypatch, VERSIONS[hardware])
    report = build_here(vision_blocks(hardware), tmp_path, max_image_tokens=100)
    assert [engine.graph for engine in report.engines] == FILES and report.image_tokens == 100
    (profile,) = json.loads((Path(report.folder) / "vision.engine").read_text())["profiles"]
    assert profile["pixel_values"] == [[1, patches, 384] for patches in (4, 400, 400)]
    assert profile["position_indices"] == [[patches, 4] for patches in (4, 400, 400)]
    assert gpu.strongly_typed == [hardware == "sm86"] * 3 and not any(config["int8"] for config in gpu.configs)


def test_a_quantized_tower_is_built_for_int8(gpu, artifact, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "_quantized", lambda manifest: True)
    build_here(artifact, tmp_path)
    assert [config["int8"] for config in gpu.configs] == [True] * 3


def test_only_the_tower_is_built_again_for_larger_images(gpu, artifact, tmp_path):
    build_here(artifact, tmp_path, max_image_tokens=50)
    for tokens, reused in ((60, [True, True, False]), (40, [True] * 3)):
        report = build_here(artifact, tmp_path, max_image_tokens=tokens)
        assert [engine.reused for engine in report.engines] == reused
    assert len(gpu.configs) == 4


def limits(artifact, tokens=None):
    return limits_of(Artifact.open(artifact), BuildOptions(max_context=CONTEXT, max_image_tokens=tokens))


def test_images_are_no_larger_than_the_model_prepares_them(artifact):
    assert limits(artifact).image_tokens == DEFAULT_IMAGE_TOKENS
    assert limits(artifact, 300).image_tokens == 300
    assert limits(artifact, 9999).image_tokens == 512  # a video's 1,024 are two frames


def test_the_default_follows_a_model_of_small_or_of_large_images(artifact, tmp_path):
    for name, sizes, expected in (("small", (4096, 8192), 32), ("large", (131072, 262144), 512)):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("preprocessor_config.json", "video_preprocessor_config.json"):
            values = json.loads((artifact / file).read_text())
            values["size"] = {"shortest_edge": sizes[0], "longest_edge": sizes[1]}
            (folder / file).write_text(json.dumps(values))
        found = limits_of(Artifact(folder, Artifact.open(artifact).manifest), BuildOptions())
        assert found.image_tokens == expected


def test_images_below_the_least_are_refused(gpu, artifact, tmp_path):
    with pytest.raises(BadInputError, match="max_image_tokens 5 is too small: the model's images have at least 16"):
        build_here(artifact, tmp_path, max_image_tokens=5)
    assert not gpu.configs


def test_a_model_of_text_has_no_largest_image(gpu, block_artifact, tmp_path):
    assert build_here(block_artifact("fp32"), tmp_path).image_tokens is None
    with pytest.raises(BadInputError, match="has no vision tower: leave --max-image-tokens out"):
        build_here(block_artifact("fp32"), tmp_path, max_image_tokens=64)


def test_host_memory_is_checked_for_the_tower_too(gpu, artifact, tmp_path, monkeypatch):
    build_here(artifact, tmp_path, max_image_tokens=50)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000})())
    with pytest.raises(ResourceLimitError, match=r"building vision\.onnx takes about .*: close other programs$"):
        build_here(artifact, tmp_path, max_image_tokens=60)


def test_the_command_says_how_large_images_may_be(gpu, artifact, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "run_worker", run_here)
    arguments = ["build", str(artifact), "--max-context", str(CONTEXT), "--max-image-tokens", "64"]
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    assert "vision.onnx" in shown and "up to 512 tokens, images up to 64 tokens" in shown
    assert run([*arguments, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["image_tokens"] == 64
