"""What the vision plugin makes of a text with an image; a stub stands for the engine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from inference_pio.models import VisionPlugin, create_qwen3_vl_2b_instruct_plugin

IMAGE = np.zeros((4, 4, 3), np.uint8)


class StubEngine:
    """Remembers the messages of every chat."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def chat(self, messages: Any, params: Any, **more: Any) -> Any:
        self.asked.append(messages)
        return SimpleNamespace(text="a cat")


@pytest.fixture
def engine() -> StubEngine:
    return StubEngine()


@pytest.fixture
def plugin(engine: StubEngine, monkeypatch: pytest.MonkeyPatch) -> VisionPlugin:
    made = create_qwen3_vl_2b_instruct_plugin()
    monkeypatch.setattr(made, "load_model", lambda: engine)
    return made


@pytest.mark.parametrize("image", ["cat.png", Path("a") / "cat.png", IMAGE], ids=["text", "path", "array"])
def test_text_and_image(plugin: VisionPlugin, engine: StubEngine, image: Any):
    assert plugin.infer({"text": "What is it?", "image": image}) == "a cat"
    ((message,),) = engine.asked
    assert message["role"] == "user"
    first, second = message["content"]
    assert first["type"] == "image" and first["image"] is image
    assert second == {"type": "text", "text": "What is it?"}


@pytest.mark.parametrize("data", ["Hello", {"text": "Hello"}, {"text": "Hello", "image": None}])
def test_text_alone(plugin: VisionPlugin, engine: StubEngine, data: Any):
    assert plugin.infer(data) == "a cat"
    assert engine.asked == [[{"role": "user", "content": "Hello"}]]


@pytest.mark.parametrize("data", ["", {"text": " "}, {"text": "", "image": IMAGE}])
def test_no_text(plugin: VisionPlugin, engine: StubEngine, data: Any):
    with pytest.warns(UserWarning, match="was given no text"):
        assert plugin.infer(data) == ""
    assert engine.asked == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (5, "takes a text, not int"),
        ({"image": IMAGE}, "there is no text"),
        ({"text": "a", "images": [IMAGE]}, "without images"),
        ({"text": 5, "image": IMAGE}, "takes a text, not int"),
    ],
)
def test_refused(plugin: VisionPlugin, data: Any, words: str):
    with pytest.raises(ValueError, match=words):
        plugin.infer(data)


def test_an_artifact_answers(vision_artifact, tmp_path):
    few: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0, "ignore_eos": True}
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    plugin = create_qwen3_vl_2b_instruct_plugin(vision_artifact("fp32"))
    try:
        assert plugin.generate_text("import os", **few) != ""
        seen, other = (plugin.infer({"text": "What is it?", "image": image}) for image in (pixels, 255 - pixels))
        assert seen and other and seen != other
        with pytest.raises(ValueError, match="uint8"):
            plugin.infer({"text": "What is it?", "image": pixels / 255})
    finally:
        plugin.cleanup()


def test_metadata():
    metadata = create_qwen3_vl_2b_instruct_plugin().metadata
    assert metadata.supported_modalities == ("text", "image") and metadata.num_parameters == 2_127_532_032
