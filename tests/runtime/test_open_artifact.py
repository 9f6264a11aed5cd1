"""Opening an artifact that turns out to be broken leaves nothing open."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_pio.artifact import bundle
from inference_pio.errors import BadInputError
from inference_pio.runtime import Engine, EngineConfig, open_artifact
from inference_pio.runtime.backends.ort import OrtBackend


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[OrtBackend]:
    """Backends that were closed."""
    backends: list[OrtBackend] = []
    monkeypatch.setattr(OrtBackend, "close", lambda backend: backends.append(backend))
    return backends


def test_a_backend_is_closed_when_the_weights_were_changed(
    tiny_artifact: Callable[[str], Path], tmp_path: Path, closed: list[OrtBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their hash is known only after they were loaded."""
    folder = Path(shutil.copytree(tiny_artifact("int8"), tmp_path / "changed"))
    (weights,) = folder.glob("*.onnx.data")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    monkeypatch.setattr(bundle, "LARGE_FILE_BYTES", 100_000)
    with pytest.raises(BadInputError, match="changed"):
        Engine.open(folder)
    assert len(closed) == 1


def test_no_backend_is_opened_when_the_images_cannot_be_prepared(
    vision_artifact: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_artifact, "open_backend", lambda *_: pytest.fail("a backend was opened"))
    with pytest.raises(BadInputError, match="max_image_tokens 1 is too small"):
        Engine.open(vision_artifact("fp32"), EngineConfig(max_image_tokens=1))


def test_images_of_a_model_of_text_have_no_limit(tiny_artifact: Callable[[str], Path]) -> None:
    with pytest.raises(BadInputError, match="takes text only: leave max_image_tokens out"):
        Engine.open(tiny_artifact("int8"), EngineConfig(max_image_tokens=64))
