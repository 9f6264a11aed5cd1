"""Opening an artifact that turns out to be broken leaves nothing open."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_pio.artifact import bundle
from inference_pio.errors import BadInputError
from inference_pio.runtime import Engine
from inference_pio.runtime.backends.ort import OrtBackend


def test_a_backend_is_closed_when_the_weights_were_changed(
    tiny_artifact: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their hash is known only after they were loaded."""
    folder = Path(shutil.copytree(tiny_artifact("int8"), tmp_path / "changed"))
    (weights,) = folder.glob("*.onnx.data")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    closed = []
    monkeypatch.setattr(bundle, "LARGE_FILE_BYTES", 100_000)
    monkeypatch.setattr(OrtBackend, "close", lambda backend: closed.append(backend))
    with pytest.raises(BadInputError, match="changed"):
        Engine.open(folder)
    assert len(closed) == 1
