"""The vision tower over stand-ins for TensorRT that compute: the chain's features and answers, and every refusal."""

from __future__ import annotations

import sys
from pathlib import Path

import fake_gpu
import numpy as np
import pytest
from engine_cases import HARDWARE, build_here, only_trt85, opened
from fake_cuda import FakeRuntime

from inference_pio.cli.main import run
from inference_pio.errors import BadInputError, InferencePioError, ResourceLimitError
from inference_pio.runtime import SamplingParams
from inference_pio.runtime.backends.tensorrt_engines import RESERVE

sys.path.insert(0, str(Path(__file__).parents[2]))
from vision_cases import END, IMAGE, START

GREEDY = SamplingParams(max_new_tokens=8, temperature=0, ignore_eos=True)
TEXT = [5, 6, 7, 8]
LARGEST = 64
"""Tokens of an image that the engine is built for."""


@pytest.fixture
def built(gpu, vision_blocks, dialect, cache):
    artifact = vision_blocks(HARDWARE[dialect])
    build_here(artifact, cache, max_image_tokens=LARGEST)
    return artifact


def picture(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def question(*parts):
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "what is it?"}]}]


def shown(seed, *size):
    return {"type": "image", "image": picture(seed, *size)}


FILM = {"type": "video", "video": [picture(seed, 64, 96) for seed in range(5)], "fps": 2}


def test_answers_about_images_are_those_of_the_chain(gpu, built, cache):
    questions = [question(shown(0)), question(shown(1, 60, 200), shown(2, 128, 128)), question(FILM, shown(0))]
    with opened(built, cache) as engine, opened(built, cache, "chain") as chain:
        for messages in questions:
            assert engine.chat(messages, GREEDY).token_ids == chain.chat(messages, GREEDY).token_ids
        ids = [4, START, IMAGE, END, 5]
        ours, theirs = (each.logits(ids, images=[picture(0)]) for each in (engine, chain))
        assert np.abs(ours - theirs).max() < 1e-5
        assert not np.allclose(ours, engine.logits(ids, images=[picture(1)]), atol=1e-2)
        assert (engine.vision.encoder.runs, chain.vision.encoder.runs) == (5, 4)


def test_features_are_those_of_the_chain_frame_by_frame(gpu, built, cache):
    with opened(built, cache) as engine, opened(built, cache, "chain") as chain:
        for patches in (
            engine.vision.prepared.video(FILM["video"], "video 0"),
            engine.vision.prepared.image(picture(0), "image 0"),
        ):
            gpu.runtime.fetched.clear()
            ours, theirs = (each.vision.encoder.features(patches).layers for each in (engine, chain))
            assert ours.shape == theirs.shape and np.abs(ours - theirs).max() < 1e-5
            frames = patches.grid.frames
            assert gpu.runtime.fetched == [ours[0].nbytes // frames] * len(ours) * frames


def test_text_never_touches_the_tower(gpu, built, cache):
    with opened(built, cache) as engine:
        next(cache.glob("engines/*/vision.engine")).write_bytes(b"changed")
        engine.generate(TEXT, GREEDY)
        engine.logits(TEXT)
        assert not engine.vision.encoder.loaded
        with pytest.raises(BadInputError, match=r"vision\.engine has changed since it was built"):
            engine.chat(question(shown(0)), GREEDY)
        assert not engine.vision.encoder.loaded


def test_an_image_in_between_disturbs_no_recorded_step(gpu, built, cache):
    """The tower's activations need more memory than the blocks', so that of the recorded steps moves."""
    params = SamplingParams(max_new_tokens=16, temperature=0, ignore_eos=True)
    with opened(built, cache, prefix_cache_bytes=0) as engine:
        alone = engine.generate(TEXT, params).token_ids
    with opened(built, cache, prefix_cache_bytes=0) as engine:
        stream = engine.stream(TEXT, params)
        for _ in range(8):
            next(stream)
        recorded = gpu.runtime.calls["cudaGraphLaunch"]
        answer = engine.chat(question(shown(0)), GREEDY)
        *_, last = stream
        assert last.result.token_ids == alone
        assert engine.chat(question(shown(0)), GREEDY).token_ids == answer.token_ids
        assert engine.generate(TEXT, params).token_ids == alone
    assert gpu.runtime.calls["cudaGraphLaunch"] > recorded > 0
    assert gpu.runtime.used == 0 and not gpu.runtime.graphs


@only_trt85
def test_an_image_that_is_too_large_is_refused(gpu, built, cache):
    large = question(shown(0, 250, 250))
    with opened(built, cache) as engine:
        with pytest.raises(ResourceLimitError) as refused:
            engine.chat(large, GREEDY)
        assert str(refused.value) == (
            "an image has 256 tokens and the engine of vision.onnx takes 64: open the artifact with max_image_tokens "
            "64, or build it again with --max-image-tokens 256"
        )
        assert engine.vision.encoder.runs == 0
        with opened(built, cache, "chain") as chain:
            assert engine.chat(question(shown(0)), GREEDY).token_ids == chain.chat(question(shown(0)), GREEDY).token_ids
    with opened(built, cache, max_image_tokens=LARGEST) as engine:
        assert engine.chat(large, GREEDY).usage.prompt_tokens < LARGEST + 30


@only_trt85
def test_the_command_refuses_it_in_one_sentence(gpu, built, cache, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image").fromarray(picture(0, 250, 250))
    image.save(tmp_path / "large.png")
    arguments = ["generate", str(built), "-p", "what?", "--image", str(tmp_path / "large.png"), "--max-new-tokens", "2"]
    assert run(arguments) == 4
    assert "error: an image has 256 tokens and the engine of vision.onnx takes 64" in capsys.readouterr().err
    assert run([*arguments, "--max-image-tokens", "64"]) == 0


@only_trt85
def test_closing_frees_the_tower_and_it_can_be_loaded_again(gpu, built, cache):
    with opened(built, cache) as engine:
        messages = question(shown(0))
        first, taken = engine.chat(messages, GREEDY), engine._opened.budget.taken
        patches = engine.vision.prepared.image(picture(1), "image 0")
        held = gpu.runtime.used
        engine.vision.close()
        assert gpu.runtime.used < held and engine._opened.budget.taken < taken
        engine.vision.encoder.features(patches)
        assert (gpu.runtime.used, engine._opened.budget.taken) == (held, taken)
        assert engine.chat(messages, GREEDY).token_ids == first.token_ids
    assert gpu.runtime.used == 0
    engine.close()
    with pytest.raises(BadInputError, match="the engine is closed"):
        engine.vision.encoder.features(engine.vision.prepared.image(picture(2), "image 0"))
    assert not engine.vision.encoder.loaded


@only_trt85
def test_a_tower_that_was_not_built_is_missed_at_once(gpu, built, cache):
    next(cache.glob("engines/*/vision.engine")).unlink()
    with pytest.raises(BadInputError, match=r"no engine of vision\.onnx for Fake GTX 1060.*run inference-pio build"):
        opened(built, cache)


@only_trt85
def test_the_tower_counts_before_anything_is_loaded(built, cache, monkeypatch):
    sizes = {file.stem: file.stat().st_size for file in cache.glob("engines/*/*.engine")}
    small = FakeRuntime(memory=RESERVE + sum(sizes.values()) - 1)
    fake_gpu.install(monkeypatch, runtime=small)
    with pytest.raises(ResourceLimitError, match=r"the engines need .* MB of GPU memory"):
        opened(built, cache)
    assert "cudaMalloc" not in small.calls and len(sizes) == 3


@only_trt85
@pytest.mark.parametrize(
    ("short", "message"),
    [
        (1, r"the engine of vision\.onnx needs .* MB of GPU memory"),
        (0, r"images of up to 64 tokens, .* memory for activations needs .* smaller --max-image-tokens"),
    ],
)
def test_images_that_the_gpu_has_no_room_for(gpu, built, cache, short, message):
    size = next(cache.glob("engines/*/vision.engine")).stat().st_size
    with opened(built, cache) as engine:
        empty, memory = engine._opened.budget.taken, gpu.runtime.memory
        text = engine.generate(TEXT, GREEDY)
        gpu.runtime.memory = gpu.runtime.used + size - short
        with pytest.raises(ResourceLimitError, match=message):
            engine.chat(question(shown(0)), GREEDY)
        assert engine._opened.budget.taken == empty and not engine.vision.encoder.loaded
        gpu.runtime.memory = memory
        assert engine.generate(TEXT, GREEDY).token_ids == text.token_ids
        engine.chat(question(shown(0)), GREEDY)


@only_trt85
def test_a_failure_of_tensorrt_on_an_image_is_one_sentence(gpu, built, cache, monkeypatch):
    with opened(built, cache) as engine:
        engine.chat(question(shown(0)), GREEDY)
        monkeypatch.setattr(fake_gpu.FakeContext, "execute_async_v3", lambda self, stream: False)
        with pytest.raises(InferencePioError, match=r"TensorRT failed in vision\.onnx"):
            engine.chat(question(shown(1)), GREEDY)
